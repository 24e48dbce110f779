"""Spatial pyramid pooling with attention: every voxel chooses among means over neighbourhoods of several sizes.

Source: Feng et al., "CPFNet: Context Pyramid Fusion Network for Medical Image Segmentation", TMI 2020, sec. III-C (the
scale-aware weights); He et al., "Spatial Pyramid Pooling", ECCV 2014 (the pyramid). Departures: CPFNet weighs dilated
convolutions, two at a time, and here all scales of a mean pyramid are weighed at once; the pyramid is of strides, not
of a number of bins, so that a scale has one size in voxels in every patch; each scale scores itself from its own mean
and from the voxel, so that no order of scales is built in.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.layers import conv, mean_pool

STRIDES = (1, 2, 4, 8)  # voxels per axis of the neighbourhoods; stride 1 is x itself


class PyramidPooling(nn.Module):
    """y = sum_s a_s up(pool_s(x)), a = softmax over scales of w_s^T up(pool_s(x)) + v_s^T x + b_s. x ``[B, C, *S]``."""

    inputs: ClassVar[int] = 1
    multiplies: ClassVar[bool] = False

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.of_voxel = conv(spatial_dims, channels, len(STRIDES), kernel=1)
        self.of_mean = nn.ModuleList(conv(spatial_dims, channels, 1, kernel=1, bias=False) for _ in STRIDES)
        self.strides = STRIDES

    def scales(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """pool_s(x), each ``[B, C, *ceil(S / s)]``, and a ``[B, n_s, 1, *S]``."""
        pooled = [mean_pool(x, stride) for stride in self.strides]
        scores = [
            unpool(score(p), stride, x) for score, p, stride in zip(self.of_mean, pooled, self.strides, strict=True)
        ]
        return pooled, (torch.cat(scores, dim=1) + self.of_voxel(x)).softmax(1)[:, :, None]

    def attention(self, x: Tensor) -> Tensor:
        """The share of all means over more than the voxel itself, ``[B, 1, *S]`` in (0, 1)."""
        return 1 - self.scales(x)[1][:, self.strides.index(1)]

    def forward(self, x: Tensor) -> Tensor:
        pooled, shares = self.scales(x)
        first, *others = [
            share * unpool(p, stride, x)
            for p, stride, share in zip(pooled, self.strides, shares.unbind(1), strict=True)
        ]
        return sum(others, start=first)


def unpool(pooled: Tensor, stride: int, like: Tensor) -> Tensor:
    """Means of blocks of ``stride`` voxels at the size of ``like``, linearly between the centres of blocks.

    One axis after the other by a product with a small matrix, which takes a CPU half the time of interpolation.
    """
    if stride == 1:
        return pooled
    for axis, n in enumerate(like.shape[2:], start=2):
        blocks = torch.eye(pooled.shape[axis], dtype=pooled.dtype, device=pooled.device)
        shares = F.interpolate(blocks[None], scale_factor=stride, mode="linear")[0, :, :n]  # of a block in a voxel
        pooled = (pooled.movedim(axis, -1) @ shares).movedim(-1, axis)
    return pooled
