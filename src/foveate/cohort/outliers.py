"""Scans that look unlike their cohort: another modality, other intensities, another size; by robust distances.

Intensities of MR have no scale of their own, so what is compared is each scan as normalisation leaves it: a coarse
picture of block means (``CaseFacts.thumbnail``), which follows contrast and anatomy and not the scanner's units.
Distances are in robust deviations: (value - median) / (1.4826 MAD) over all scans of the cohort, labelled or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from foveate.cohort.facts import CaseFacts, canonical

LIMIT = 6.0  # robust deviations; on 200 hippocampus and 80 left atrium scans the farthest lies at 4.0
FEWEST = 10  # scans from which there is a cohort to be unlike
SPREAD = 0.2  # least deviation of the pictures' distances, as a share of their median: a tight cohort is no reason
FACTOR = 1.2  # least deviation of sizes: a third of the median or three times it is then about the limit


@dataclass(frozen=True)
class Distance:
    """How far a scan is from its cohort in robust deviations, and in what: intensities, or a size in words."""

    deviations: float
    what: str


def outliers(facts: Mapping[str, CaseFacts]) -> dict[str, Distance]:
    """The cases that lie beyond LIMIT, with their largest distance; none in a cohort of fewer than FEWEST."""
    if len(facts) < FEWEST or len({(len(fact.shape), fact.channels) for fact in facts.values()}) > 1:
        return {}
    names = list(facts)
    pictures = np.array([np.ravel(fact.thumbnail) for fact in facts.values()])  # [N, C * blocks], NaN where missing
    pictures = pictures[:, ~np.isnan(pictures).all(axis=0)]
    measured = [_pictures(pictures)]
    spacing = np.array([canonical(fact.spacing, fact.orientation) for fact in facts.values()])  # [N, D]
    extent = spacing * np.array([canonical(fact.shape, fact.orientation) for fact in facts.values()])
    measured += [_sizes(extent, "extent"), _sizes(spacing, "voxel size")]
    worst = {}
    for i, name in enumerate(names):
        deviations, what = max(((float(values[i]), texts[i]) for values, texts in measured), key=lambda pair: pair[0])
        if deviations > LIMIT:
            worst[name] = Distance(deviations, what)
    return worst


def _pictures(pictures: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Deviations of each picture's mean absolute difference from the cohort's median picture, ``[N]``; over the
    modalities that it has."""
    distance = np.nanmean(np.abs(pictures - np.nanmedian(pictures, axis=0)), axis=1)
    middle = np.median(distance)
    scale = max(1.4826 * np.median(np.abs(distance - middle)), SPREAD * middle, 1e-6)
    return (distance - middle) / scale, ["intensities after normalisation"] * len(distance)


def _sizes(sizes: np.ndarray, name: str) -> tuple[np.ndarray, list[str]]:
    """Deviations of the axis that is farthest from the cohort's median, on a logarithmic scale, ``[N]``."""
    logs = np.log(sizes)
    middle = np.median(logs, axis=0)
    scale = np.maximum(1.4826 * np.median(np.abs(logs - middle), axis=0), np.log(FACTOR))
    deviations = np.abs(logs - middle) / scale
    axis = deviations.argmax(axis=1)
    texts = [
        f"{name} {sizes[i, a]:.3g} on an axis where the median is {np.exp(middle[a]):.3g}" for i, a in enumerate(axis)
    ]
    return deviations.max(axis=1), texts
