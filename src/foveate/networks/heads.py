"""Dense upsampling: logits of full resolution from a feature of a coarser one, without a feature of full resolution.

Source: Wang et al., "Understanding Convolution for Semantic Segmentation" (DUC), WACV 2018, sec. 3.1.
Departures: by the stride of the finest decoder stage, which it replaces, and not by the encoder's whole one, so that
the other skip connections stay; in 3D too, with a stride for each axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from foveate.layers import conv, pixel_shuffle


class DenseUpsampling(nn.Module):
    """A convolution to ``channels`` values for every voxel of a block, then pixel shuffle:
    ``[B, C, *S] -> [B, channels, *(stride * S)]``."""

    def __init__(self, dims: int, inputs: int, channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.body = conv(dims, inputs, channels * math.prod(stride))

    def forward(self, x: Tensor) -> Tensor:
        return pixel_shuffle(self.body(x), self.stride)
