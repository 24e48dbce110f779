"""From a scan's own voxel grid to the prepared one and back: orientation, shape and linear resampling.

Voxels are boxes: resampling keeps the physical extent of the scan, so the outer faces of the first and last
voxel stay where they are and the centre of the volume does not move (``align_corners=False``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nibabel.orientations import io_orientation

from foveate.cohort.plan import Plan
from foveate.io.volume import Volume

# Down-sampling by more than this is preceded by a Gaussian, below it linear interpolation aliases little.
SMOOTH_ABOVE = 1.5


@dataclass(frozen=True)
class Grid:
    """Where a prepared array came from.

    original_shape, original_affine: the input's own spatial shape and affine (voxel index -> RAS mm).
    order, flips: canonical axis i is original axis ``order[i]``, reversed where ``flips[i]``.
    canonical_shape: shape after reorientation (RAS closest). prepared_shape: shape after resampling.
    """

    original_shape: tuple[int, ...]
    original_affine: tuple[tuple[float, ...], ...]
    order: tuple[int, ...]
    flips: tuple[bool, ...]
    canonical_shape: tuple[int, ...]
    prepared_shape: tuple[int, ...]

    @classmethod
    def of(cls, volume: Volume, plan: Plan) -> Grid:
        """The grid on which ``plan`` prepares ``volume``. Pictures (2D) keep their orientation."""
        order, flips = tuple(range(volume.dims)), (False,) * volume.dims
        if volume.dims == 3:
            orientation = io_orientation(volume.affine)  # row per original axis: canonical axis, direction
            order = tuple(int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in range(3))
            flips = tuple(bool(orientation[axis, 1] < 0) for axis in order)
        canonical = tuple(volume.shape[axis] for axis in order)
        spacing = [volume.spacing[axis] for axis in order]
        wanted = plan.spacing
        if plan.fits:
            factor = max(n * own / p for n, own, p in zip(canonical, spacing, plan.patch, strict=True))
            wanted = (factor,) * volume.dims
        prepared = tuple(
            max(1, round(n * own / target)) for n, own, target in zip(canonical, spacing, wanted, strict=True)
        )
        affine = tuple(tuple(float(v) for v in row) for row in np.asarray(volume.affine))
        return cls(tuple(volume.shape), affine, order, flips, canonical, prepared)

    @classmethod
    def unchanged(cls, shape: Sequence[int]) -> Grid:
        """The grid of an array that is not reoriented or resampled."""
        shape, dims = tuple(shape), len(shape)
        affine = tuple(tuple(float(v) for v in row) for row in np.eye(4))
        return cls(shape, affine, tuple(range(dims)), (False,) * dims, shape, shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size of the prepared array in mm (pixels for pictures), exact, within rounding of the plan's."""
        own = np.linalg.norm(np.asarray(self.original_affine)[:3, : len(self.order)], axis=0)
        sizes = zip(self.order, self.canonical_shape, self.prepared_shape, strict=True)
        return tuple(float(own[axis]) * n / m for axis, n, m in sizes)

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """A view of ``array [..., *original_shape]`` in canonical orientation: writing to it writes to ``array``."""
        lead = array.ndim - len(self.order)
        view = array.transpose(*range(lead), *(lead + axis for axis in self.order))
        return view[(..., *(slice(None, None, -1) if flip else slice(None) for flip in self.flips))]

    def boxes_to_prepared(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes ``[N, 2 n]`` in voxels of the scan's own grid -> in voxels of the prepared one."""
        low, high = np.split(boxes, 2, axis=1)
        low, high = low[:, self.order], high[:, self.order]
        size, flips = np.array(self.canonical_shape), np.array(self.flips)
        low, high = np.where(flips, size - high, low), np.where(flips, size - low, high)
        return np.concatenate([low, high], 1) * np.tile(np.array(self.prepared_shape) / size, 2)

    def boxes_to_original(self, boxes: np.ndarray) -> np.ndarray:
        """The inverse of ``boxes_to_prepared``."""
        size, flips = np.array(self.canonical_shape), np.array(self.flips)
        low, high = np.split(boxes * np.tile(size / np.array(self.prepared_shape), 2), 2, axis=1)
        low, high = np.where(flips, size - high, low), np.where(flips, size - low, high)
        back = np.argsort(self.order)
        return np.concatenate([low[:, back], high[:, back]], 1)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Grid:
        rest = {name: tuple(value) for name, value in data.items() if name != "original_affine"}
        return cls(original_affine=tuple(tuple(row) for row in data["original_affine"]), **rest)


@dataclass(frozen=True)
class Taps:
    """Linear resampling of one axis: output i is the sum over k of ``weight[i, k] * input[index[i, k]]``."""

    index: torch.Tensor  # [n_out, K] int64
    weight: torch.Tensor  # [n_out, K] float32
    n_in: int

    @property
    def identity(self) -> bool:
        n = len(self.index)
        return self.n_in == n and bool((self.index[:, 0] == torch.arange(n)).all() and (self.weight[:, 0] == 1).all())

    def rows(self, start: int, stop: int) -> tuple[Taps, int, int]:
        """Taps of outputs start..stop, and the range of inputs that they read; their index counts from its start."""
        index, weight = self.index[start:stop], self.weight[start:stop]
        first, last = int(index.min()), int(index.max()) + 1
        return Taps(index - first, weight, last - first), first, last


def linear_taps(n_in: int, n_out: int, smooth: bool = False) -> Taps:
    """Weights that take ``n_in`` voxels to ``n_out`` over the same extent; beyond the border the edge repeats.

    smooth: precede with a Gaussian of deviation (n_in / n_out - 1) / 2 voxels when down-sampling by more than
    SMOOTH_ABOVE, so that detail finer than the new grid does not alias.
    """
    if n_in == n_out:
        return Taps(torch.arange(n_in)[:, None], torch.ones(n_in, 1), n_in)
    factor = n_in / n_out
    position = (torch.arange(n_out, dtype=torch.float64) + 0.5) * factor - 0.5
    lower = position.floor()
    fraction = position - lower
    kernel, radius = torch.ones(1, dtype=torch.float64), 0
    if smooth and factor > SMOOTH_ABOVE:
        sigma = (factor - 1) / 2
        radius = math.ceil(3 * sigma)
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
        kernel /= kernel.sum()
    zero = kernel.new_zeros(1)
    left, right = torch.cat([kernel, zero]), torch.cat([zero, kernel])  # the kernel around lower and lower + 1
    weight = (1 - fraction)[:, None] * left + fraction[:, None] * right  # [n_out, 2 radius + 2]
    index = lower.long()[:, None] + torch.arange(-radius, radius + 2)
    return Taps(index.clamp(0, n_in - 1), weight.float(), n_in)


def resample_axis(x: torch.Tensor, axis: int, taps: Taps) -> torch.Tensor:
    """``x`` resampled along one axis; ``x`` itself when that changes nothing."""
    if taps.identity:
        return x
    shape = list(x.shape)
    shape[axis] = len(taps.index)
    out = x.new_zeros(shape)
    index, weight = taps.index.to(x.device), taps.weight.to(x.device)
    spread = [1] * x.ndim
    spread[axis] = -1
    # In chunks along another axis: the gathered copies stay small.
    other = max((a for a in range(x.ndim) if a != axis), key=lambda a: x.shape[a])
    chunk = max(1, (1 << 22) * shape[other] // max(1, math.prod(shape)))
    for part, target in zip(x.split(chunk, other), out.split(chunk, other), strict=True):
        for k in range(index.shape[1]):
            target.addcmul_(part.index_select(axis, index[:, k]), weight[:, k].view(spread))
    return out


def resample(x: torch.Tensor, shape: Sequence[int], smooth: bool = False) -> torch.Tensor:
    """``x [C, *S]`` float32 resampled linearly to ``[C, *shape]`` over the same extent; may return ``x`` itself.

    smooth: see ``linear_taps``.
    """
    ratios = {axis: n / x.shape[axis + 1] for axis, n in enumerate(shape)}
    for axis in sorted(ratios, key=ratios.__getitem__):  # what shrinks goes first
        x = resample_axis(x, axis + 1, linear_taps(x.shape[axis + 1], shape[axis], smooth))
    return x
