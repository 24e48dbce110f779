"""The few layers that exist once per number of spatial dimensions, chosen by that number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

_CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}
_INSTANCE_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def conv(
    dims: int, inputs: int, outputs: int, kernel: int = 3, stride: int | Sequence[int] = 1, bias: bool = True
) -> nn.Module:
    """Convolution with "same" padding for odd kernels."""
    stride = stride if isinstance(stride, int) else tuple(stride)
    return _CONV[dims](inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=bias)


def conv_transpose(dims: int, inputs: int, outputs: int, stride: Sequence[int]) -> nn.Module:
    """Up-sampling by ``stride`` with non-overlapping kernels (no checkerboard)."""
    return _CONV_TRANSPOSE[dims](inputs, outputs, tuple(stride), stride=tuple(stride), bias=False)


def resize_linear(dims: int, inputs: int, outputs: int, stride: Sequence[int]) -> nn.Module:
    """Up-sampling by ``stride`` as ``conv_transpose``, by linear interpolation of projected channels."""
    project = conv(dims, inputs, outputs, kernel=1, bias=False)  # first, where there are fewer voxels
    return nn.Sequential(project, nn.Upsample(scale_factor=tuple(map(float, stride)), mode=_LINEAR[dims]))


def resize_nearest(dims: int, inputs: int, outputs: int, stride: Sequence[int]) -> nn.Module:
    """Up-sampling by ``stride`` as ``conv_transpose``, by repeating projected channels."""
    project = conv(dims, inputs, outputs, kernel=1, bias=False)
    return nn.Sequential(project, nn.Upsample(scale_factor=tuple(map(float, stride)), mode="nearest"))


def pixel_shuffle(x: Tensor, stride: Sequence[int]) -> Tensor:
    """``[B, T * prod(stride), *S] -> [B, T, *(stride * S)]``: channels become the voxels of a block, in row-major order
    (Shi et al., CVPR 2016; in any number of dimensions and by a stride for each)."""
    dims = len(stride)
    parts = x.unflatten(1, (x.shape[1] // math.prod(stride), *stride))  # [B, T, *stride, *S]
    order = itertools.chain.from_iterable((2 + dims + axis, 2 + axis) for axis in range(dims))
    size = [n * step for n, step in zip(x.shape[2:], stride, strict=True)]
    return parts.permute(0, 1, *order).reshape(*parts.shape[:2], *size)


def interpolate(x: Tensor, size: Sequence[int]) -> Tensor:
    """``[B, C, *S]`` at another size, linearly between the centres of voxels."""
    return F.interpolate(x, tuple(size), mode=_LINEAR[len(size)])


def instance_norm(dims: int, channels: int) -> nn.Module:
    """Instance normalisation with scale and shift: independent of the batch, so views and cases cannot leak."""
    return _INSTANCE_NORM[dims](channels, affine=True)
