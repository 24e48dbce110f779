"""Squeeze-and-excitation: one weight per channel from the mean of every channel.

Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, eq. 2-4. Departure: the channels are squeezed to a
quarter, at least 4, not to a sixteenth, because the U-Net is narrow.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """s = sigmoid(W_2 relu(W_1 mean(x))); returns s * x. x ``[B, C, *S]``."""

    inputs: ClassVar[int] = 1
    multiplies: ClassVar[bool] = True

    def __init__(self, channels: int, spatial_dims: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        self.spatial_dims = spatial_dims

    def attention(self, x: Tensor) -> Tensor:
        """s ``[B, C, 1, ...]`` in (0, 1)."""
        s = self.excite(self.squeeze(x.flatten(2).mean(2)).relu()).sigmoid()  # [B, C]
        return s.reshape(*s.shape, *[1] * self.spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)
