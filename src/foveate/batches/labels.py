"""How labels are cut, stacked and taken through the geometry of their image, for each kind of label.

A kind has four functions: ``cut`` for one case, ``stack`` for those of a batch, ``through`` for the augmented batch on
the device and ``none`` for a batch of no images. ``LABELS`` says which kind a task has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foveate.batches.augment import Geometry, warp_labels
from foveate.batches.cache import PreparedCase
from foveate.cohort.plan import Plan

Slices = tuple[slice, ...]


class Maps:
    """A value for each voxel: uint8 ``[B, *R]`` of the region, ``[B, *S]`` of the patch; background outside."""

    def cut(self, case: PreparedCase, here: Slices, there: Slices, region: Sequence[int]) -> np.ndarray:
        """The part ``here`` of the case at ``there`` of the region."""
        out = np.zeros(region, np.uint8)
        out[there] = case.label[here]  # type: ignore[index]
        return out

    def stack(self, cut: Sequence[np.ndarray], plan: Plan) -> Tensor:
        # Without cases the sizes do not matter: see ``none``.
        return torch.from_numpy(np.stack(cut)) if cut else torch.zeros(0, *plan.patch, dtype=torch.uint8)

    def through(self, labels: Tensor, geometry: Geometry, grid: Tensor, plan: Plan) -> Tensor:
        """grid: where the image was read, ``[B, *S, D]``; geometry: what it was made from."""
        return warp_labels(labels, grid)

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


LABELS: dict[str, Maps | Vectors] = {
    "segmentation": Maps(),
    "classification": Vectors(),
    "regression": Vectors(),
}
