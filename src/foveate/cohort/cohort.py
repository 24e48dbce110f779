"""A cohort: the cases of a dataset, which of them carry a label, and what the labels mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from foveate.errors import Problem

IGNORE = 255  # label value that carries no information, in every layout


class Box(NamedTuple):
    """A box around a structure, the name or value of a class: low and high ends along each array axis of the image as
    stored, in voxels from the outer face of the first one."""

    structure: str
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Case:
    """One scan: its image files (one per channel, or one multi-channel file), its label file if there is one.

    missing: numbers of the channels that have no file; ``images`` are the others in order. boxes: around structures.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str
    missing: tuple[int, ...] = ()
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Cohort:
    """The cases under ``root``.

    dims: 2 or 3. channels: channel names in order ("CT" asks for CT normalisation).
    classes: foreground name -> label value, or tuple of values for a region; background (0) is not listed.
        Empty when nothing on disk declares them; the check then reads them off the labels.
    tree: node of the label tree -> the classes and nodes that it divides into; empty without a tree.
    ignore: label value that carries no information (nnU-Net's "ignore"), or None; 255 is always ignored.
    problems: what listing the folder already found. masks: label files without an image.
    """

    root: Path
    layout: str
    dims: int
    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    classes: dict[str, int | tuple[int, ...]]
    ignore: int | None = None
    problems: tuple[Problem, ...] = field(default=())
    tree: dict[str, tuple[str, ...]] = field(default_factory=dict)
    masks: tuple[Path, ...] = ()

    @property
    def labelled(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.label is not None)

    @property
    def unlabelled(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.label is None)

    def keep_labels(self, ids: Iterable[str]) -> Cohort:
        """The same cases, of which only ``ids`` keep their label; the others' label paths are forgotten."""
        kept = set(ids)
        cases = tuple(case if case.id in kept else replace(case, label=None) for case in self.cases)
        return replace(self, cases=cases)

    def only(self, ids: Iterable[str]) -> Cohort:
        """The cohort reduced to the cases ``ids``."""
        kept = set(ids)
        return replace(self, cases=tuple(case for case in self.cases if case.id in kept))
