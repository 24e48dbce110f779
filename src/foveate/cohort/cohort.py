"""A cohort: the cases of a dataset, which of them carry a label, and what the labels mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from foveate.errors import Problem

IGNORE = 255  # label value that carries no information, in every layout
TaskName = Literal["segmentation", "classification", "regression", "detection"]


@dataclass(frozen=True)
class Box:
    """A box around a structure of an image of n dimensions.

    edges ``(2 n)``: low corner, high corner, along the array axes of the image as stored, in voxels from the outer face
    of the first one. name: of its class; in boxes.csv also its value. ignored: an answer to it neither counts nor
    teaches ("difficult", "iscrowd"). score: of a box that was predicted, in [0, 1].
    """

    edges: tuple[float, ...]
    name: str
    ignored: bool = False
    score: float = 1.0

    @property
    def low(self) -> tuple[float, ...]:
        return self.edges[: len(self.edges) // 2]

    @property
    def high(self) -> tuple[float, ...]:
        return self.edges[len(self.edges) // 2 :]


@dataclass(frozen=True)
class Case:
    """One scan: its image files (one per channel, or one multi-channel file), its label file if there is one.

    missing: numbers of the channels that have no file; ``images`` are the others in order.
    target: what a label that is no map says: names of classes, or a number; None where there is none.
    boxes: around structures, of a segmentation dataset; they are no label.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str
    missing: tuple[int, ...] = ()
    target: Any = None
    boxes: tuple[Box, ...] = ()

    @property
    def labelled(self) -> bool:
        return self.label is not None or self.target is not None


@dataclass(frozen=True)
class Cohort:
    """The cases under ``root``.

    dims: 2 or 3. channels: channel names in order ("CT" asks for CT normalisation).
    classes: foreground name -> label value, or tuple of values for a region; background (0) is not listed.
        Empty when nothing on disk declares them; the check then reads them off the labels. For classification and
        detection name -> number from 0; for regression empty.
    tree: node of the label tree -> the classes and nodes that it divides into; empty without a tree.
    ignore: label value that carries no information (nnU-Net's "ignore"), or None; 255 is always ignored.
    problems: what listing the folder already found.
    task: what the labels are of. exclusive: a picture has one of the classes, or each of them or not.
    masks: label files without an image.
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
    task: TaskName = "segmentation"
    exclusive: bool = True
    masks: tuple[Path, ...] = ()

    @property
    def labelled(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.labelled)

    @property
    def unlabelled(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if not case.labelled)

    def keep_labels(self, ids: Iterable[str]) -> Cohort:
        """The same cases, of which only ``ids`` keep their label; the others' label paths are forgotten."""
        kept = set(ids)
        cases = tuple(case if case.id in kept else replace(case, label=None, target=None) for case in self.cases)
        return replace(self, cases=cases)

    def only(self, ids: Iterable[str]) -> Cohort:
        """The cohort reduced to the cases ``ids``."""
        kept = set(ids)
        return replace(self, cases=tuple(case for case in self.cases if case.id in kept))
