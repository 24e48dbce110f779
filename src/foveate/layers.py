"""The few layers that exist once per number of spatial dimensions, chosen by that number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORM: dict[int, Callable[[int], nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_CONVOLVE: dict[int, Any] = {2: F.conv2d, 3: F.conv3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}


def conv(
    dims: int,
    inputs: int,
    outputs: int,
    kernel: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 1,
    bias: bool = True,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Module:
    """Convolution with "same" padding for odd kernels."""
    stride = stride if isinstance(stride, int) else tuple(stride)
    kernel = (kernel,) * dims if isinstance(kernel, int) else tuple(kernel)
    padding = tuple(k // 2 * dilation for k in kernel)
    return _CONV[dims](inputs, outputs, kernel, stride, padding, dilation, groups, bias)


def convolve_planes(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3D convolution to one channel: x ``[B, C, D, H, W]``, weight ``[1, C, K, K, K]`` with odd K, bias ``[1]``.

    Each plane of the kernel is a 2D convolution of all planes of x, and the answers are added where they belong. A CPU
    takes half the time, forward and back, that it takes over a 3D convolution of few channels.
    """
    batch, depth, taps = len(x), x.shape[2], weight[0].transpose(0, 1)
    half = len(taps) // 2
    planes = F.conv2d(x.transpose(1, 2).flatten(0, 1), taps, padding=half)  # [B D, K, H, W]
    planes = F.pad(planes.unflatten(0, (batch, depth)), [0, 0, 0, 0, 0, 0, half, half])
    total = torch.stack([planes[:, k : k + depth, k] for k in range(len(taps))]).sum(0)
    return (total + bias).unsqueeze(1)


class JoiningConv(nn.Module):
    """3^D convolution of two features joined along their channels: ``[B, I, *S]`` each -> ``[B, O, *S]``.

    Each is convolved by its half of the weights and the results are added, which is the same. So the joined feature is
    neither made, nor kept for the backward pass, nor cut up there.
    """

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        joined: Any = conv(dims, 2 * inputs, outputs, bias=False)
        self.weight: nn.Parameter = joined.weight  # drawn as for the joined feature
        self.convolve = _CONVOLVE[dims]

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        of_x, of_other = self.weight.chunk(2, dim=1)
        return self.convolve(x, of_x, padding=1).add_(self.convolve(other, of_other, padding=1))


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


def mean_pool(x: Tensor, stride: int) -> Tensor:
    """Means of blocks of ``stride`` voxels per axis, ``[B, C, *S] -> [B, C, *ceil(S / stride)]``.

    The last block of an axis is filled up with its last voxel.
    """
    x = F.pad(x, [n for size in reversed(x.shape[2:]) for n in (0, -size % stride)], mode="replicate")
    for axis in range(2, x.ndim):
        x = x.unflatten(axis, (-1, stride)).mean(axis + 1)
    return x


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


def at_voxels(x: Tensor, stride: Sequence[int]) -> Tensor:
    """``[B, C, *s] -> [B, C, *(s * stride)]``, linearly between the voxels that strided convolutions are centred on.

    With an odd kernel and "same" padding the n-th position sees around voxel n * stride, not around the middle of a
    block of voxels, where ``interpolate`` would put it. Beyond the last position its value stays.
    """
    x = F.pad(x, [n for _ in stride for n in (0, 1)], mode="replicate")
    size = tuple((n - 1) * step + 1 for n, step in zip(x.shape[2:], stride, strict=True))
    x = F.interpolate(x, size, mode=_LINEAR[len(size)], align_corners=True)
    return x[:, :, *(slice(n - 1) for n in size)]


def hidden_layer(channels: int, expansion: int = 4) -> nn.Sequential:
    """What follows attention in a transformer block: ``[..., C] -> [..., C]``, normalised first."""
    return nn.Sequential(
        nn.LayerNorm(channels),
        nn.Linear(channels, expansion * channels),
        nn.GELU(),
        nn.Linear(expansion * channels, channels),
    )


def present(x: Tensor) -> Tensor:
    """Which channels of images ``[B, C, *S]`` are there: ``[B, C]`` bool.

    NaN stands for a missing modality, and no image that was read holds any. One voxel of it is enough: padding and the
    mixture with another image leave some, and what is left of a channel then is not the channel.
    """
    return ~x.isnan().flatten(2).any(2)


def without_absent(x: Tensor) -> Tensor:
    """Images ``[B, C, *S]`` whose absent channels are 0 throughout, what is left of one too."""
    there = present(x)
    return torch.where(there.reshape(*there.shape, *[1] * (x.ndim - 2)), x, 0.0)


def batch_norm(dims: int, channels: int) -> nn.Module:
    """Batch normalisation with scale and shift: an answer depends on the image alone, a position on what it sees."""
    return _BATCH_NORM[dims](channels)


def instance_norm(channels: int) -> nn.Module:
    """Instance normalisation with scale and shift: independent of the batch, so views and cases cannot leak."""
    # One group a channel is the same thing. torch's own instance norm answers with a view, and activating that in
    # place costs its backward pass two copies: norm and activation took twice as long.
    return nn.GroupNorm(channels, channels)
