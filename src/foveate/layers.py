"""The few layers that exist once per number of spatial dimensions, chosen by that number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

_CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
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


def instance_norm(dims: int, channels: int) -> nn.Module:
    """Instance normalisation with scale and shift: independent of the batch, so views and cases cannot leak."""
    return _INSTANCE_NORM[dims](channels, affine=True)
