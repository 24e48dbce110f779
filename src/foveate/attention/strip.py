"""Strip pooling: a voxel is weighed by the means along the lines that run through it and beside it.

Source: Hou et al., "Strip Pooling: Rethinking Spatial Pooling for Scene Parsing", CVPR 2020, sec. 3.1. Departures: a
line along each of three axes in 3D, so that its mean lies in a plane, and the convolution of 3 behind it is one of 3x3;
no batch normalisation, because segmentation batches are too small for its statistics.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from foveate.layers import conv


class StripPooling(nn.Module):
    """sigmoid(W relu(sum_a conv_a(mean of x along axis a))) * x, sums broadcast. x ``[B, C, *S]``."""

    inputs: ClassVar[int] = 1
    multiplies: ClassVar[bool] = True

    def __init__(self, channels: int, spatial_dims: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        axes = range(spatial_dims)
        self.strips = nn.ModuleList(
            conv(spatial_dims, channels, hidden, kernel=[1 if a == axis else 3 for a in axes]) for axis in axes
        )
        self.join = conv(spatial_dims, hidden, channels, kernel=1)

    def attention(self, x: Tensor) -> Tensor:
        """``[B, C, *S]`` in (0, 1)."""
        first, *others = [strip(x.mean(axis, keepdim=True)) for axis, strip in enumerate(self.strips, start=2)]
        return self.join(sum(others, start=first).relu()).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)
