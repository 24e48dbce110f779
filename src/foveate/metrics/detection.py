"""Average precision and FROC of boxes.

Sources: Lin et al., "Microsoft COCO", ECCV 2014, and its evaluation code (matching, and precision interpolated at 101
recalls); van Ginneken et al., "Comparing and combining algorithms for computer-aided detection of pulmonary nodules",
Medical Image Analysis 2010 (mean sensitivity at 1/8 to 8 false positives an image).
Departures: thresholds of the IoU from 0.1, as overlaps of small structures are low where they are well found; boxes of
any number of dimensions; no limit by size of object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foveate.boxes import SURE, iou

THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(2, 16))  # 0.1 to 0.75
RECALLS = np.linspace(0, 1, 101)
FALSE_POSITIVES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # per image
FROC_IOU = 0.1  # a structure is found that is overlapped so far: FROC asks whether, AP how well
MOST = 100  # boxes of a class and an image that count, the surest ones
CHUNK = 1 << 22  # numbers held at once while resampling


@dataclass(frozen=True)
class ImageBoxes:
    """What is known and what was found in one image, boxes ``[N, 2 n]`` as in ``foveate.boxes``.

    truth: with classes ``[N]`` from 0; ignored ``[N]``: whether finding the box is neither right nor wrong.
    found: with classes and scores ``[M]``.
    """

    case: str
    patient: str
    truth: np.ndarray
    truth_classes: np.ndarray
    ignored: np.ndarray
    found: np.ndarray
    found_classes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Matches:
    """The boxes found of one class in all images, surest first.

    scores ``[D]``; image ``[D]``: its number; right, counts ``[T, D]``: whether it found a structure, and whether it
    counts at all, by threshold. structures ``[images]``: how many there are to be found.
    """

    scores: np.ndarray
    image: np.ndarray
    right: np.ndarray
    counts: np.ndarray
    structures: np.ndarray


def match_image(
    found: np.ndarray, scores: np.ndarray, truth: np.ndarray, ignored: np.ndarray, thresholds: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes of one class found a structure, and which count: two ``[T, M]`` bool.

    found ``[M, 2 n]``, truth ``[N, 2 n]``, ignored ``[N]``. From the surest on, each takes the structure that it
    overlaps most of those that are left and reach the threshold; an ignored one only where there is no other, and any
    number of boxes may take that: they count neither as right nor as wrong.
    """
    right = np.zeros((len(thresholds), len(found)), bool)
    counts = np.ones_like(right)
    if not (len(found) and len(truth)):
        return right, counts
    overlaps = iou(*(torch.from_numpy(np.ascontiguousarray(boxes, float)) for boxes in (found, truth))).numpy()
    for t, threshold in enumerate(thresholds):
        free = ~ignored
        for i in np.argsort(-scores, kind="stable"):
            open_ = np.where(free, overlaps[i], -1.0)
            best = int(open_.argmax())
            if open_[best] >= threshold:
                right[t, i], free[best] = True, False
            elif (overlaps[i][ignored] >= threshold).any():
                counts[t, i] = False
    return right, counts


@dataclass(frozen=True)
class SureMatches:
    """Of one image, how many boxes are found, missed and false; mean IoU of those found, nan without any."""

    found: int
    missed: int
    false: int
    mean_iou: float


def match_sure(item: ImageBoxes, classes: Iterable[int]) -> SureMatches:
    """What is right and wrong among the boxes of a score of SURE, at an IoU of 0.5."""
    sure, hits, wrong, overlaps = item.scores >= SURE, 0, 0, []
    for number in classes:
        mine, there = sure & (item.found_classes == number), item.truth_classes == number
        right, counts = match_image(item.found[mine], item.scores[mine], item.truth[there], item.ignored[there], (0.5,))
        hits, wrong = hits + int(right.sum()), wrong + int((counts & ~right).sum())
        if right.any():
            pairs = iou(torch.from_numpy(item.found[mine][right[0]]), torch.from_numpy(item.truth[there]))
            overlaps += pairs.amax(1).tolist()
    boxes = int((~item.ignored).sum())
    return SureMatches(hits, boxes - hits, wrong, float(np.mean(overlaps)) if overlaps else float("nan"))


def match_class(images: Sequence[ImageBoxes], number: int, thresholds: Sequence[float] = THRESHOLDS) -> Matches:
    """All boxes of the class ``number``, matched image by image."""
    scores, image, right, counts = [], [], [], []
    structures = np.zeros(len(images))
    for index, item in enumerate(images):
        mine = np.flatnonzero(item.found_classes == number)
        mine = mine[np.argsort(-item.scores[mine], kind="stable")][:MOST]
        there = item.truth_classes == number
        structures[index] = (there & ~item.ignored).sum()
        hit, counted = match_image(
            item.found[mine], item.scores[mine], item.truth[there], item.ignored[there], thresholds
        )
        scores.append(item.scores[mine])
        image.append(np.full(len(mine), index))
        right.append(hit)
        counts.append(counted)
    joined = np.concatenate(scores)
    order = np.argsort(-joined, kind="stable")
    return Matches(
        joined[order],
        np.concatenate(image)[order],
        np.concatenate(right, axis=1)[:, order],
        np.concatenate(counts, axis=1)[:, order],
        structures,
    )


def average_precision(matches: Matches, weights: np.ndarray | None = None) -> np.ndarray:
    """AP at every threshold, mean of the best precision at 101 recalls or beyond: ``[draws, T]``.

    weights ``[draws, images]``: how often each image counts; None: once. A draw without structures is nan.
    """
    weights = np.ones((1, len(matches.structures))) if weights is None else weights
    total = weights @ matches.structures
    out = np.full((len(weights), len(matches.right)), np.nan)
    out[total > 0] = 0.0
    if not len(matches.scores):
        return out
    step = max(1, CHUNK // len(matches.scores))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        times = weights[rows][:, matches.image]  # [draws, D]
        for t, (right, counts) in enumerate(zip(matches.right, matches.counts, strict=True)):
            hits, shown = (times * right).cumsum(1), (times * counts).cumsum(1)
            precision = hits / np.maximum(shown, 1e-12)
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            for row in np.flatnonzero(total[rows] > 0):
                # Whole counts: a recall is reached exactly where it is said to be.
                place = np.searchsorted(hits[row] / total[start + row], RECALLS, side="left")
                reached = place < hits.shape[1]
                out[start + row, t] = precision[row][place[reached]].sum() / len(RECALLS)
    return out


def sensitivities(matches: Matches, weights: np.ndarray | None = None, threshold: int = 0) -> np.ndarray:
    """Share of structures that are found at FALSE_POSITIVES an image or fewer: ``[draws, 7]``; nan without any.

    threshold: number of the IoU threshold. Boxes of one score are taken or left together.
    """
    weights = np.ones((1, len(matches.structures))) if weights is None else weights
    total, images = weights @ matches.structures, weights.sum(1)
    right, counts = matches.right[threshold], matches.counts[threshold]
    last = np.append(np.flatnonzero(np.diff(matches.scores)), len(right) - 1) if len(right) else np.zeros(0, int)
    out = np.full((len(weights), len(FALSE_POSITIVES)), np.nan)
    step = max(1, CHUNK // max(len(right), 1))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        times = weights[rows][:, matches.image]
        hits = np.pad((times * right).cumsum(1)[:, last], ((0, 0), (1, 0)))
        wrong = np.pad((times * (counts & ~right)).cumsum(1)[:, last], ((0, 0), (1, 0)))
        for row in np.flatnonzero(total[rows] > 0):
            allowed = np.array(FALSE_POSITIVES) * images[start + row]
            out[start + row] = hits[row][np.searchsorted(wrong[row], allowed, side="right") - 1] / total[start + row]
    return out


def detection_scores(matches: Mapping[str, Matches], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Key -> ``[draws]`` for weights ``[draws, images]``: ``ap`` (mean over THRESHOLDS), ``ap50`` and the others from
    ``ap10`` to ``ap75``, ``froc`` (mean of seven sensitivities at an IoU of FROC_IOU), ``sensitivity_at_0.125_fp`` and
    so on; with ``/class`` of one class, without it the mean over classes of which there are structures."""
    each = []
    for found in matches.values():
        precision = average_precision(found, weights)
        sensitivity = sensitivities(found, weights, THRESHOLDS.index(FROC_IOU))
        row = {"ap50": precision[:, THRESHOLDS.index(0.5)], "ap": precision.mean(1), "froc": sensitivity.mean(1)}
        row |= {f"ap{round(100 * t)}": precision[:, i] for i, t in enumerate(THRESHOLDS)}
        row |= {f"sensitivity_at_{n:g}_fp": sensitivity[:, i] for i, n in enumerate(FALSE_POSITIVES)}
        each.append(row)
    scores = {key: _mean(np.stack([row[key] for row in each])) for key in each[0]}
    kept = ("ap50", "ap", "ap10", "ap75", "froc")  # of each class; the others are for the curves of all
    return scores | {f"{key}/{name}": row[key] for name, row in zip(matches, each, strict=True) for key in kept}


def _mean(values: np.ndarray) -> np.ndarray:
    """Over classes ``[classes, ...]``, of those that have a value."""
    there = np.isfinite(values)
    total = np.where(there, values, 0).sum(0)
    return np.divide(total, there.sum(0), out=np.full_like(total, np.nan), where=there.any(0))
