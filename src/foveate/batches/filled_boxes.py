"""Boxes and masks without images, prepared like labels: a filled box goes through whatever a label goes through."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from foveate.batches.cache import PreparedCase, PreparedCohort, complete, write_array
from foveate.batches.grid import Grid
from foveate.batches.prepare import cache_key, prepare_label, sample_voxels
from foveate.cohort.box_table import number_of
from foveate.cohort.cohort import Box, Cohort
from foveate.cohort.plan import Plan
from foveate.io import case_stem, read_label
from foveate.io.volume import Volume


def fill_boxes(boxes: Iterable[Box], plan: Plan, shape: Sequence[int]) -> np.ndarray:
    """uint8 ``[*shape]``: bit k is set in every voxel that a box of class k touches, so that boxes may overlap."""
    filled = np.zeros(shape, np.uint8)
    for box in boxes:
        number = number_of(box.name, plan.classes)
        assert number is not None, "the check refuses unknown classes"
        filled[tuple(slice(math.floor(a), math.ceil(b)) for a, b in zip(box.low, box.high, strict=True))] |= 1 << number
    return filled


def prepare_boxes(cohort: Cohort, plan: Plan, prepared: PreparedCohort, folder: Path) -> dict[str, PreparedCase]:
    """Every case with boxes and without a label, with its filled boxes in place of one."""
    out = {}
    for case in cohort.unlabelled:
        if case.boxes:
            image = prepared[case.id]
            wanted = repr((case.boxes, list(plan.classes.items())))
            stem = folder / f"{image.image_path.stem}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
            filled = fill_boxes(case.boxes, plan, image.grid.original_shape)
            out[case.id] = _written(image, Volume(filled[None], np.array(image.grid.original_affine)), plan, stem)
    return out


def prepare_masks(
    files: Iterable[Path], labelled: Iterable[PreparedCase], plan: Plan, folder: Path
) -> dict[str, PreparedCase]:
    """Masks of files, and the labels of cases without their images, in the order of their content.

    So neither a name nor the image that a mask belongs to has any influence. The image of what is returned is never
    to be opened; a file has none.
    """
    masks = list(labelled)
    for file in files:
        mask = read_label(file)
        stem = folder / f"mask-{cache_key((file,), plan, 'mask')}"
        masks.append(_written(PreparedCase(case_stem(file), Grid.of(mask, plan), stem), mask, plan, stem))
    order: dict[str, list[PreparedCase]] = {}
    for case in masks:
        assert case.label is not None
        content = hashlib.sha256(repr(case.shape).encode() + case.label.tobytes()).hexdigest()
        order.setdefault(content, []).append(case)
    return {f"{content} {i}": case for content in sorted(order) for i, case in enumerate(order[content])}


def _written(case: PreparedCase, label: Volume, plan: Plan, stem: Path) -> PreparedCase:
    """``case`` with ``label`` prepared for it, in files of the cache that begin with ``stem``."""
    path, voxels = stem.with_name(f"{stem.name}.label.npy"), stem.with_name(f"{stem.name}.voxels.npy")
    dims = len(case.shape)
    if not (complete(path, np.uint8, case.shape) and complete(voxels, np.int32, (None, 1 + dims))):
        # The value that labels ignore may be a set of bits here.
        array = prepare_label(label, plan.model_copy(update={"ignore": None}), case.grid)
        write_array(path, array)
        write_array(voxels, sample_voxels(array))
    return replace(case, label_path=path, voxels_path=voxels)
