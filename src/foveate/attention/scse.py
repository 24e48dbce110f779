"""Concurrent spatial and channel squeeze-and-excitation: a weight per channel and a weight per voxel, added.

Source: Roy et al., "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks", MICCAI 2018,
eq. 1-5. Departure: the channels are squeezed to a quarter, not to a half, as in this package's squeeze-and-excitation.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from foveate.attention.squeeze_excite import SqueezeExcite
from foveate.layers import conv


class SpatialChannelSqueezeExcite(nn.Module):
    """x * s + x * q: s squeezes space, q = sigmoid(w^T x) squeezes channels. x ``[B, C, *S]``."""

    inputs: ClassVar[int] = 1
    multiplies: ClassVar[bool] = True

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.of_channels = SqueezeExcite(channels, spatial_dims)
        self.of_voxels = conv(spatial_dims, channels, 1, kernel=1)

    def attention(self, x: Tensor) -> Tensor:
        """s + q ``[B, C, *S]`` in (0, 2)."""
        return self.of_channels.attention(x) + self.of_voxels(x).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)
