"""Scans that look unlike their cohort: another modality, other intensities, another size; by robust distances.

Intensities of MR have no scale of their own, so what is compared is each scan as normalisation leaves it: a coarse
picture of block means (``CaseFacts.thumbnail``), which follows contrast and anatomy and not the scanner's units.
Channels that are normalised absolutely (CT, 8-bit colours) are compared by their own values too, as the network gets
those. Distances are in robust deviations: (value - median) / (1.4826 MAD).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foveate.cohort.facts import CaseFacts, canonical
from foveate.cohort.plan import normalisation_of

LIMIT = 6.0  # robust deviations; on 200 hippocampus and 80 left atrium scans, by any list, the farthest lies at 5.5
LABELLED = 4  # labelled scans that say what the cohort is like; with fewer, all scans do
MANY = 32  # scans of which one no longer moves the median
FEWEST = 10  # scans from which there is a cohort to be unlike
SPREAD = 0.2  # least deviation of the pictures' distances, as a share of their median: a tight cohort is no reason
BLUR = 0.02  # least deviation of the pictures' distances, of z-scores: nearly identical scans are no cohort to leave
LEVELS = 0.05  # least deviation of values, as a share of the cohort's range: 100 of 2000 HU
AIR = -1024.0  # nothing is darker in CT: what lies below is padding, which is clipped
FACTOR = 1.2  # least deviation of sizes: a third of the median or three times it is then about the limit


@dataclass(frozen=True)
class Distance:
    """How far a scan is from its cohort in robust deviations, and in what: intensities, or a size in words."""

    deviations: float
    what: str


def outliers(
    facts: Mapping[str, CaseFacts], channels: Sequence[str], labelled: Collection[str] = ()
) -> dict[str, Distance]:
    """The cases that lie beyond LIMIT, with their largest distance; none in a cohort of fewer than FEWEST.

    channels: their names, "CT" among them. labelled: cases that say what the cohort is like, from LABELLED on.
    """
    if len(facts) < FEWEST or len({(len(fact.shape), fact.channels) for fact in facts.values()}) > 1:
        return {}
    names = list(facts)
    known = np.array([name in labelled for name in names])
    if known.sum() < LABELLED:
        known[:] = True
    pictures = np.array([np.ravel(fact.thumbnail) for fact in facts.values()])  # [N, C * blocks], NaN where missing
    if np.isnan(pictures).any():  # few labelled scans need not show every modality
        known = np.ones_like(known)
    pictures = pictures[:, ~np.isnan(pictures).all(axis=0)]
    measured = [_pictures(pictures, known)]
    measured += [_values(list(facts.values()), number, channels, known) for number in range(len(channels))]
    spacing = np.array([canonical(fact.spacing, fact.orientation) for fact in facts.values()])  # [N, D]
    extent = spacing * np.array([canonical(fact.shape, fact.orientation) for fact in facts.values()])
    measured += [_sizes(extent, "extent", known), _sizes(spacing, "voxel size", known)]
    worst = {}
    for i, name in enumerate(names):
        deviations, what = max(((float(values[i]), texts[i]) for values, texts in measured), key=lambda pair: pair[0])
        if deviations > LIMIT:
            worst[name] = Distance(deviations, what)
    return worst


def _pictures(pictures: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Deviations of the pictures, ``[N]``, over the modalities that each has."""
    return _deviations(pictures, known, BLUR), ["intensities after normalisation"] * len(pictures)


def _values(
    facts: Sequence[CaseFacts], number: int, channels: Sequence[str], known: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Deviations of a channel's percentiles, ``[N]``; 0 where it is missing or normalised scan by scan."""
    rows = np.array([fact.percentiles[number] for fact in facts])  # [N, percentiles]
    there = ~np.isnan(rows).any(axis=1)
    deviations, texts = np.zeros(len(facts)), [""] * len(facts)
    if not (there & known).any():
        return deviations, texts
    middle = np.median(rows[there & known], axis=0)
    low, high = middle[0], middle[-1]
    if normalisation_of(channels[number], len(facts[0].shape), len(channels), low, high) == "zscore":
        return deviations, texts
    deviations[there] = _deviations(rows[there].clip(AIR), known[there], LEVELS * (high - low))
    usual = f"where {low:.4g} to {high:.4g} is usual"
    return deviations, [f"{channels[number]} values from {row[0]:.4g} to {row[-1]:.4g} {usual}" for row in rows]


def _deviations(rows: np.ndarray, known: np.ndarray, least: float) -> np.ndarray:
    """Deviations of each row's mean absolute difference from the median row of the known, ``[N]``; NaN is left out.

    least: of a deviation, in the rows' unit; where it is 0, one unit.
    """
    distance = np.nanmean(np.abs(rows - np.nanmedian(rows[known], axis=0)), axis=1)
    if not known.all() and known.sum() < MANY:  # few lie nearer to a median that they make themselves
        for i in np.flatnonzero(known):
            others = known & (np.arange(len(rows)) != i)
            distance[i] = np.mean(np.abs(rows[i] - np.median(rows[others], axis=0)))
    middle = np.median(distance[known])
    scale = max(1.4826 * np.median(np.abs(distance[known] - middle)), SPREAD * middle, least or 1.0)
    return (distance - middle) / scale


def _sizes(sizes: np.ndarray, name: str, known: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Deviations of the axis that is farthest from the cohort's median, on a logarithmic scale, ``[N]``."""
    logs = np.log(sizes)
    middle = np.median(logs[known], axis=0)
    scale = np.maximum(1.4826 * np.median(np.abs(logs[known] - middle), axis=0), np.log(FACTOR))
    deviations = np.abs(logs - middle) / scale
    axis = deviations.argmax(axis=1)
    texts = [
        f"{name} {sizes[i, a]:.3g} on an axis where the median is {np.exp(middle[a]):.3g}" for i, a in enumerate(axis)
    ]
    return deviations.max(axis=1), texts
