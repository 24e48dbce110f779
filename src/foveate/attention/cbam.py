"""Convolutional block attention: first a weight per channel, then a weight per voxel, each from a mean and a maximum.

Source: Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, eq. 1-3. Departures: the channels are
squeezed to a quarter, not to a sixteenth, because the U-Net is narrow; a voxel's weight sees 7^2 neighbours in 2D but
5^3 in 3D, where 7^3 would cost more than the convolution beside it; no batch normalisation behind that convolution,
because segmentation batches are too small for its statistics.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from foveate.layers import conv, convolve_planes

KERNEL = {2: 7, 3: 5}  # voxels per axis that decide a voxel's weight


class ConvBlockAttention(nn.Module):
    """M_c = sigmoid(mlp(mean x) + mlp(max x)); M_s = sigmoid(conv([mean, max] over channels of M_c x)).

    x ``[B, C, *S]``; returns M_s * M_c * x.
    """

    inputs: ClassVar[int] = 1
    multiplies: ClassVar[bool] = True

    def __init__(self, channels: int, spatial_dims: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.of_voxels = conv(spatial_dims, 2, 1, kernel=KERNEL[spatial_dims])
        self.spatial_dims = spatial_dims

    def channels(self, x: Tensor) -> Tensor:
        """M_c ``[B, C, 1, ...]`` in (0, 1)."""
        voxels = x.flatten(2)
        highest = voxels.max(2).values  # not amax, whose gradient looks for ties
        m = (self.mlp(voxels.mean(2)) + self.mlp(highest)).sigmoid()  # [B, C]
        return m.reshape(*m.shape, *[1] * self.spatial_dims)

    def voxels(self, x: Tensor) -> Tensor:
        """M_s ``[B, 1, *S]`` in (0, 1), of x that M_c has weighed."""
        # The two channels last in memory: a CPU then takes a third of the time over the convolution and its gradient.
        described = torch.stack([x.mean(1), x.amax(1)], dim=-1).movedim(-1, 1)
        if self.spatial_dims == 2:
            return self.of_voxels(described).sigmoid()
        weight, bias = map(self.of_voxels.get_parameter, ("weight", "bias"))
        return convolve_planes(described, weight, bias).sigmoid()

    def attention(self, x: Tensor) -> Tensor:
        """M_s * M_c ``[B, C, *S]`` in (0, 1)."""
        of_channels = self.channels(x)
        return of_channels * self.voxels(x * of_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.channels(x)
        return x * self.voxels(x)
