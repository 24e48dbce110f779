"""Views of an image for averaging: rotated and zoomed a little, and the answer brought back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.batches.augment import Geometry, sample_geometry, sampling_grid
from foveate.config import AugmentConfig

ROTATION = 20.0  # degrees about each axis, at most
ZOOM = 0.15  # per axis, at most


@dataclass(frozen=True)
class View:
    """A linear map about the centre of an image. matrix: ``[D, D]``, offset in the view (mm) -> offset in the image."""

    matrix: Tensor
    spacing: tuple[float, ...]

    def of(self, image: Tensor) -> Tensor:
        """The image ``[B, C, *S]`` seen so; zero (the mean) outside."""
        return self._warp(image, self.matrix, "zeros")

    def back(self, answer: Tensor) -> Tensor:
        """Maps ``[B, K, *S]`` of the view on the image's own voxels; what the view did not see is its nearest."""
        return self._warp(answer, torch.linalg.inv(self.matrix), "border")

    def _warp(self, x: Tensor, matrix: Tensor, outside: str) -> Tensor:
        size, dims = x.shape[2:], x.ndim - 2
        still = Geometry(matrix[None].to(x.device), torch.zeros(1, dims), torch.zeros(1, dims, *[2] * dims))
        still.shift = still.shift.to(x.device)
        grid = sampling_grid(still, size, size, self.spacing).expand(len(x), *size, dims)
        return F.grid_sample(x.float(), grid, mode="bilinear", padding_mode=outside, align_corners=False)


def draw_views(count: int, spacing: Sequence[float], mirror_axes: Sequence[int], seed: int) -> list[View]:
    """``count`` random views; the same ones for the same seed. spacing: mm per axis."""
    generator = torch.Generator().manual_seed(seed)
    ranges = AugmentConfig(rotation_degrees=ROTATION, scale=ZOOM, affine_p=1.0, shift=0.0, elastic_p=0.0)
    # The size matters to shifts and elastic changes alone, and there are none.
    drawn = sample_geometry(ranges, count, [1.0] * len(spacing), mirror_axes, generator)
    return [View(matrix, tuple(spacing)) for matrix in drawn.matrix]
