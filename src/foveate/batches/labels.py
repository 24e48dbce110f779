"""How labels are cut, stacked and taken through the geometry of their image, for each kind of label.

A kind has four functions: ``cut`` for one case, ``stack`` for those of a batch, ``through`` for the augmented batch on
the device and ``none`` for a batch of no images. ``LABELS`` says which kind a task has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foveate.batches.augment import Geometry, warp, warp_labels
from foveate.batches.boxes import pad_boxes, warp_boxes
from foveate.batches.cache import PreparedCase
from foveate.cohort.plan import Plan

Slices = tuple[slice, ...]
MARGIN = 1.25  # read this much more than the patch, so that rotation and zoom do not drag in emptiness


def region_of(plan: Plan) -> tuple[int, ...]:
    """Voxels per axis that are read for a patch.

    As odd or even as the patch: their shared centre must be a voxel of both or a face of both. Beyond a patch that is
    the whole image there is nothing to read.
    """
    margin = 0.0 if plan.whole else MARGIN - 1
    return tuple(n + 2 * math.ceil(n * margin / 2) for n in plan.patch)


class Maps:
    """A value for each voxel: uint8 ``[B, *R]`` of the region, ``[B, *S]`` of the patch; background outside.

    Or several, ``[B, N, *R]`` in 255ths, which are read linearly: float32 ``[B, N, *S]``, 0 outside.
    """

    def cut(self, case: PreparedCase, here: Slices, there: Slices, region: Sequence[int]) -> np.ndarray:
        """The part ``here`` of the case at ``there`` of the region."""
        label = case.label
        assert label is not None
        several = label.shape[: label.ndim - len(region)]
        out = np.zeros((*several, *region), np.uint8)
        out[(*map(slice, several), *there)] = label[(*map(slice, several), *here)]
        return out

    def stack(self, cut: Sequence[np.ndarray], plan: Plan) -> Tensor:
        # Without cases the sizes do not matter: see ``none``.
        return torch.from_numpy(np.stack(cut)) if cut else torch.zeros(0, *plan.patch, dtype=torch.uint8)

    def through(self, labels: Tensor, geometry: Geometry, grid: Tensor, plan: Plan) -> Tensor:
        """grid: where the image was read, ``[B, *S, D]``; geometry: what it was made from."""
        return warp_labels(labels, grid) if labels.ndim < grid.ndim else warp(labels / 255, grid)

    def none(self, labels: Tensor, plan: Plan) -> Tensor:
        return labels.new_zeros(0, *plan.patch)


class Vectors:
    """An answer for the whole image: float32 ``[B, K]``. Geometry leaves it as it is."""

    def cut(self, case: PreparedCase, here: Slices, there: Slices, region: Sequence[int]) -> np.ndarray:
        answer = case.target if case.label is None else case.label
        assert answer is not None
        return np.array(answer, np.float32)

    def stack(self, cut: Sequence[np.ndarray], plan: Plan) -> Tensor:
        return torch.from_numpy(np.stack(cut)) if cut else torch.zeros(0, max(len(plan.classes), 1))

    def through(self, labels: Tensor, geometry: Geometry, grid: Tensor, plan: Plan) -> Tensor:
        return labels

    def none(self, labels: Tensor, plan: Plan) -> Tensor:
        return labels[:0]


class Boxes:
    """Boxes of each image: float32 ``[B, N, 2 n + 1]`` in voxels of the region or the patch, class last; see
    ``batches.boxes``."""

    def cut(self, case: PreparedCase, here: Slices, there: Slices, region: Sequence[int]) -> np.ndarray:
        assert case.target is not None
        moved = np.array([inside.start - outside.start for inside, outside in zip(there, here, strict=True)])
        return case.target + np.concatenate([moved, moved, [0]]).astype(np.float32)

    def stack(self, cut: Sequence[np.ndarray], plan: Plan) -> Tensor:
        return pad_boxes([torch.from_numpy(boxes) for boxes in cut], plan.dims)

    def through(self, labels: Tensor, geometry: Geometry, grid: Tensor, plan: Plan) -> Tensor:
        return warp_boxes(labels, geometry, plan.patch, region_of(plan), plan.spacing)

    def none(self, labels: Tensor, plan: Plan) -> Tensor:
        return labels[:0]


LABELS: dict[str, Maps | Vectors | Boxes] = {
    "segmentation": Maps(),
    "classification": Vectors(),
    "regression": Vectors(),
    "detection": Boxes(),
}
