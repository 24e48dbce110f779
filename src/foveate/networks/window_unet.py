"""U-Net whose encoder attends within shifted windows, two- and three-dimensional by the same code.

Sources: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021;
Hatamizadeh et al., "Swin UNETR", 2022 (as the encoder of a U-Net, in 3D). Departures: widths and strides are those of
the plan, and the stage of full resolution is convolutional, as a window of raw voxels sees little and costs most (Swin
UNETR feeds that skip by a convolution too); stages shrink by an overlapping strided convolution, not by merging
patches; windows of 8^2 and 4^3 voxels, 64 in either case, not 7^2 and 7^3; no dropout and no stochastic depth; the
decoder is that of the U-Net.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from foveate.attention.window import WindowAttention
from foveate.layers import conv, hidden_layer
from foveate.networks.unet import UNet


class WindowStage(nn.Module):
    """Strided convolution, then attention in plain and in shifted windows. ``[B, I, *S] -> [B, O, *S/stride]``."""

    def __init__(self, dims: int, inputs: int, outputs: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.embed = conv(dims, inputs, outputs, stride=stride)
        self.blocks = nn.Sequential(WindowBlock(outputs, dims, shifted=False), WindowBlock(outputs, dims, shifted=True))
        self.norm = nn.LayerNorm(outputs)

    def attention(self, x: Tensor) -> Tensor:
        """What each voxel receives, mean over queries, heads and both blocks: ``[B, 1, *S / stride]``; sums to 1."""
        x, maps = self.embed(x).movedim(1, -1), []
        for block in self.blocks:
            maps.append(block.attention.received(block.norm(x)))  # type: ignore[union-attr, operator]
            x = block(x)
        return torch.stack(maps).mean(0)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).movedim(1, -1)  # [B, *S, C]
        return self.norm(self.blocks(x)).movedim(-1, 1)


class WindowBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), on ``[B, *S, C]`` of any size S. Liu 2021, eq. 3."""

    channels_last: ClassVar[bool] = True

    def __init__(self, channels: int, dims: int, shifted: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, dims, shifted)
        self.mlp = hidden_layer(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.mlp(x)


class WindowUNet(UNet):
    """A U-Net with two blocks of window attention, plain and shifted, in every encoder stage below full resolution, or
    in the only stage."""

    stage = WindowStage
