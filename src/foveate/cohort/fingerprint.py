"""A cohort in few numbers, in the canonical axis order that training uses; written with a run's records."""

from __future__ import annotations

import numpy as np

from foveate.cohort.check import CheckReport, class_volumes
from foveate.cohort.facts import CaseFacts, canonical
from foveate.cohort.layout_boxes import shortest_sides
from foveate.cohort.targets import of_maps
from foveate.config import Strict
from foveate.errors import refuse


class Intensities(Strict):
    """mean and std over voxels of all cases, each case with the same weight; percentiles: median over the cases."""

    mean: float
    std: float
    percentiles: tuple[float, ...]


class ChannelFingerprint(Intensities):
    """One channel. percentiles at 0.5, 5, 50, 95, 99.5; those of ``foreground`` (inside labels) at 0.5 and 99.5."""

    name: str
    foreground: Intensities | None = None


class ClassFingerprint(Strict):
    """cases: labelled cases that show the class. volume: (least, median, largest) in mL, pixels for pictures."""

    name: str
    cases: int
    volume: tuple[float, ...]


class Fingerprint(Strict):
    """Medians over all cases, labelled or not. Axes are R, A, S for volumes and rows, columns for pictures.

    shape, spacing: median per axis (voxels; mm, or pixels for pictures), with their extremes over the cases.
    stored: data type of the files, "mixed" where they differ. smallest_box: mm (pixels) of the shortest side that nine
    of ten boxes have, of the class of which it is least; None without boxes.
    """

    dims: int
    layout: str
    cases: int
    labelled: int
    unlabelled: int
    patients: int
    shape: tuple[float, ...]
    shape_least: tuple[int, ...]
    shape_largest: tuple[int, ...]
    spacing: tuple[float, ...]
    spacing_least: tuple[float, ...]
    spacing_largest: tuple[float, ...]
    stored: str
    channels: tuple[ChannelFingerprint, ...]
    classes: tuple[ClassFingerprint, ...]
    smallest_box: float | None = None


def fingerprint(report: CheckReport) -> Fingerprint:
    """The fingerprint of a checked cohort. Raises InputError when no case could be read."""
    cohort, facts = report.cohort, list(report.facts.values())
    if not facts:
        raise refuse(cohort.root, "cases", "none that can be read", "at least one", "See foveate check.")
    shapes = np.array([canonical(fact.shape, fact.orientation) for fact in facts])  # [N, D]
    spacings = np.array([canonical(fact.spacing, fact.orientation) for fact in facts])  # [N, D]
    stored = {fact.stored for fact in facts}
    return Fingerprint(
        dims=cohort.dims,
        layout=cohort.layout,
        cases=len(cohort.cases),
        labelled=len(cohort.labelled),
        unlabelled=len(cohort.unlabelled),
        patients=len({case.patient for case in cohort.cases}),
        shape=_floats(np.median(shapes, axis=0)),
        shape_least=tuple(int(size) for size in shapes.min(axis=0)),
        shape_largest=tuple(int(size) for size in shapes.max(axis=0)),
        spacing=_floats(np.median(spacings, axis=0)),
        spacing_least=_floats(spacings.min(axis=0)),
        spacing_largest=_floats(spacings.max(axis=0)),
        stored=stored.pop() if len(stored) == 1 else "mixed",
        channels=tuple(_channel(name, number, facts) for number, name in enumerate(cohort.channels)),
        classes=tuple(
            ClassFingerprint(name=name, cases=found["cases"], volume=tuple(found["volume"]))
            for name, value in of_maps(cohort).items()
            for found in [class_volumes(facts, value)]
        ),
        smallest_box=_smallest_box(report),
    )


def _smallest_box(report: CheckReport) -> float | None:
    if report.cohort.task != "detection":
        return None
    sides = [found for found in shortest_sides(report.cohort, report.facts).values() if len(found)]
    return min((float(np.percentile(found, 10)) for found in sides), default=None)


def _channel(name: str, number: int, facts: list[CaseFacts]) -> ChannelFingerprint:
    facts = [fact for fact in facts if fact.has(number)]
    everything = _pooled(
        [fact.mean[number] for fact in facts],
        [fact.std[number] for fact in facts],
        [fact.percentiles[number] for fact in facts],
    )
    inside = [fact.foreground[number] for fact in facts if fact.foreground]
    foreground = None
    if inside:
        foreground = _pooled(
            [part.mean for part in inside], [part.std for part in inside], [(part.low, part.high) for part in inside]
        )
    return ChannelFingerprint(name=name, foreground=foreground, **everything.model_dump())


def _pooled(means: list[float], stds: list[float], percentiles: list[tuple[float, ...]]) -> Intensities:
    """Mean and deviation of the cases together: the deviation holds that within and that between the cases."""
    variance = np.mean(np.square(stds)) + np.var(means)
    return Intensities(
        mean=float(np.mean(means)), std=float(np.sqrt(variance)), percentiles=_floats(np.median(percentiles, axis=0))
    )


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
