"""How well a map of evidence points at a structure that it was never shown: pointing game and overlap.

Sources: Zhang et al., "Top-Down Neural Attention by Excitation Backprop", IJCV 2018, sec. 4.2 (pointing game with a
tolerance); Zhou et al., CVPR 2016, sec. 3.2 (a threshold relative to the map's maximum); Otsu, IEEE Transactions on
Systems, Man, and Cybernetics 1979, eq. 18. Departures: the tolerance is a length in mm (pixels for pictures), from the
voxel pointed at to the nearest voxel of the structure; where several voxels share the maximum, the share of them that
hits counts; all of the structure counts for the overlap, not the box around its largest part.

Two answers that have not seen the image stand beside every score: a place drawn at random, and the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from foveate.metrics.bootstrap import class_mean, draw_weights, interval

THRESHOLDS = tuple(n / 20 for n in range(1, 20))  # shares of a map's maximum that a threshold is chosen from
BINS = 256  # of the histogram behind Otsu's threshold
DRAWS = 32  # random places behind the overlap of a random answer


@dataclass(frozen=True)
class Located:
    """One case: scores of the map, of a random answer and of the middle, by these names.

    pointing: 1 a hit, 0 a miss; of the random answer the probability. iou: in [0, 1].
    """

    case: str
    patient: str
    pointing: dict[str, float]
    iou: dict[str, float]


ANSWERS = ("map", "random", "centre")


def pointing(values: np.ndarray, mask: np.ndarray, spacing: Sequence[float], tolerance: float) -> float:
    """Whether the largest of ``values [*S]`` lies within ``tolerance`` of ``mask [*S]``, of which there is some.

    Several largest voxels: the share of them that does. spacing, tolerance: mm, pixels for pictures.
    """
    return float(near(mask, spacing, tolerance)[values == values.max()].mean())


def near(mask: np.ndarray, spacing: Sequence[float], tolerance: float) -> np.ndarray:
    """Which voxels have one of ``mask`` within ``tolerance``, from centre to centre: bool ``[*S]``."""
    # Rounding must not decide over a voxel that lies at the tolerance exactly.
    return ndimage.distance_transform_edt(~mask, sampling=tuple(spacing)) <= tolerance * (1 + 1e-9)


def above(values: np.ndarray, threshold: float) -> np.ndarray:
    """Where a map reaches ``threshold``, a share of its maximum: bool ``[*S]``; nowhere if it is nowhere positive."""
    highest = values.max()
    return values >= threshold * highest if highest > 0 else np.zeros(values.shape, bool)


def iou(predicted: np.ndarray, mask: np.ndarray) -> float:
    """Voxels in both over voxels in either, of which there are some."""
    return float((predicted & mask).sum() / (predicted | mask).sum())


def best_threshold(maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> float:
    """The one of ``THRESHOLDS`` with the highest mean IoU, the lowest of several; for cases that are not scored."""
    means = {
        threshold: float(np.mean([iou(above(v, threshold), m) for v, m in zip(maps, masks, strict=True)]))
        for threshold in THRESHOLDS
    }
    return max(means, key=means.__getitem__)


def otsu(values: np.ndarray) -> float:
    """The share of a map's maximum that divides its positive values best into two groups, each of like values.

    For maps where nothing is known of a single mask. 0 where no two positive values differ.
    """
    highest = values.max()
    shares = values[values > 0] / highest
    if not shares.size or shares.min() == shares.max():
        return 0.0
    counts, edges = np.histogram(shares, BINS, (0, 1))
    middles = (edges[:-1] + edges[1:]) / 2
    below, total = counts.cumsum()[:-1], counts.sum()
    sums = (counts * middles).cumsum()
    means = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(total - below, 1)
    between = below * (total - below) * (means[0] - means[1]) ** 2
    # Empty bins between two groups divide them alike: the middle of these favours neither.
    best = np.flatnonzero(between == between.max())
    return float(edges[1 + best[len(best) // 2]])


def centre_prior(shape: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """A map of 1 in the middle of the image that falls to 0 in its corners, linear in mm: ``[*shape]``."""
    axes = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    distance = np.sqrt(sum(axis**2 for axis in axes))
    return 1 - distance / max(distance.max(), 1e-12)


def ball(centre: Sequence[float], shape: Sequence[int], spacing: Sequence[float], voxels: int) -> np.ndarray:
    """The ``voxels`` voxels of an image that are nearest to ``centre``, by index, in mm: bool ``[*shape]``."""
    axes = [((np.arange(n) - c) * s) ** 2 for n, c, s in zip(shape, centre, spacing, strict=True)]
    distance = np.sum(np.stack(np.meshgrid(*axes, indexing="ij")), axis=0)
    nearest = np.argsort(distance, axis=None, kind="stable")[:voxels]
    out = np.zeros(distance.size, bool)
    out[nearest] = True
    return out.reshape(distance.shape)


def locate(
    case: str,
    values: np.ndarray,
    mask: np.ndarray,
    spacing: Sequence[float],
    *,
    threshold: float,
    tolerance: float,
    patient: str = "",
    within: np.ndarray | None = None,
) -> Located:
    """Score the map ``values [*S]`` of one case against ``mask [*S]`` bool.

    threshold: share of the map's maximum from which on it marks the structure. tolerance: mm. patient: by default the
    case itself. within: where a random answer may lie, by default anywhere.
    Random and middle are told the structure's size, which the map is not: their overlap is that of a ball of as many
    voxels, around a random voxel (the mean of ``DRAWS``) and around the middle.
    Raises ValueError for an empty mask, and for shapes that differ.
    """
    if values.shape != mask.shape or not mask.any():
        raise ValueError(f"{case}: a map {values.shape} needs a mask of its shape with some voxel, not {mask.shape}")
    hits = near(mask, spacing, tolerance)
    places = np.argwhere(np.ones_like(mask) if within is None else within)
    voxels = int(mask.sum())
    middle = ball([(n - 1) / 2 for n in mask.shape], mask.shape, spacing, voxels)
    drawn = np.random.default_rng(0).choice(places, DRAWS)
    return Located(
        case,
        patient or case,
        {
            "map": pointing(values, mask, spacing, tolerance),
            "random": float(hits[tuple(places.T)].mean()),
            "centre": pointing(centre_prior(mask.shape, spacing), mask, spacing, tolerance),
        },
        {
            "map": iou(above(values, threshold), mask),
            "random": float(np.mean([iou(ball(place, mask.shape, spacing, voxels), mask) for place in drawn])),
            "centre": iou(middle, mask),
        },
    )


def localisation_scores(rows: Sequence[Located]) -> dict[str, float | list[float]]:
    """Means over cases by flat keys (``pointing``, ``pointing_random``, ``pointing_centre``, ``iou``, ...), each with
    ``<key>_interval``, the bootstrap 95% interval over patients."""
    weights = draw_weights([row.patient for row in rows])
    found: dict[str, float | list[float]] = {}
    for name in ("pointing", "iou"):
        for answer in ANSWERS:
            key = name if answer == "map" else f"{name}_{answer}"
            values = np.array([[getattr(row, name)[answer]] for row in rows])
            found[key] = float(class_mean(values)[0])
            found[f"{key}_interval"] = list(interval(class_mean(values, weights)))
    return found
