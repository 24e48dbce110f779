"""Attentional feature fusion: for every voxel and channel, how much comes from either of two features.

Source: Dai et al., "Attentional Feature Fusion", WACV 2021, eq. 1-4. Departures: no batch normalisation, because
segmentation batches are too small for its statistics.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from foveate.layers import conv


class AttentionalFusion(nn.Module):
    """M = sigmoid(local(x + y) + global(mean(x + y))); returns M x + (1 - M) y. x and y ``[B, C, *S]``."""

    inputs: ClassVar[int] = 2
    multiplies: ClassVar[bool] = False

    def __init__(self, channels: int, spatial_dims: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.of_voxels, self.of_image = (
            nn.Sequential(
                conv(spatial_dims, channels, hidden, kernel=1),
                nn.ReLU(),
                conv(spatial_dims, hidden, channels, kernel=1),
            )
            for _ in range(2)
        )

    def attention(self, x: Tensor, y: Tensor) -> Tensor:
        """M, the share of x, ``[B, C, *S]`` in (0, 1)."""
        joined = x + y
        mean = joined.mean(list(range(2, x.ndim)), keepdim=True)
        return (self.of_voxels(joined) + self.of_image(mean)).sigmoid()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.attention(x, y) * (x - y)  # equal features stay as they are, to the bit
