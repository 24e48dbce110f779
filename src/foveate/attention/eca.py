"""Efficient channel attention: one weight per channel from the means of its neighbours in the order of channels.

Source: Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR 2020,
eq. 9 and 12. No departure.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn


def kernel(channels: int) -> int:
    """How many channels decide the weight of one: (log2(C) + 1) / 2, and the next odd number where that is even."""
    k = int((math.log2(channels) + 1) / 2)
    return k if k % 2 else k + 1


class EfficientChannelAttention(nn.Module):
    """w = sigmoid(conv1d(mean(x)) over channels); returns w * x. x ``[B, C, *S]``."""

    inputs: ClassVar[int] = 1
    multiplies: ClassVar[bool] = True

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        k = kernel(channels)
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)
        self.spatial_dims = spatial_dims

    def attention(self, x: Tensor) -> Tensor:
        """w ``[B, C, 1, ...]`` in (0, 1)."""
        w = self.conv(x.flatten(2).mean(2)[:, None])[:, 0].sigmoid()  # [B, C]
        return w.reshape(*w.shape, *[1] * self.spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)
