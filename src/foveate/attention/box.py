"""Depthwise convolution with a box kernel that is a product of strips: what makes large kernels affordable in 3D.

A strip along every axis, one after another, reaches the whole box of kernel^D voxels with D * kernel weights per
channel; strips side by side, added, would reach a plus. Source: Guo et al., "SegNeXt", NeurIPS 2022, sec. 3.1 (in 2D).
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
        self.dilation, self.span = dilation, (kernel - 1) * dilation + 1

    def forward(self, x: Tensor) -> Tensor:
        # With channels last, any axis leads the two of an image without a copy: each strip is a two-dimensional
        # convolution, on a CPU ten times as fast as a three-dimensional one.
        x = x.movedim(1, -1).contiguous()
        shape = x.shape
        for axis, weight in enumerate(self.strips(), start=1):
            channels, span = weight.shape
            rows = x.reshape(shape[:axis].numel(), shape[axis], shape[axis + 1 : -1].numel(), channels)
            rows = rows.movedim(-1, 1)  # [B * axes before, C, axis, axes after]
            half = span // 2
            if span > shape[axis]:  # torch is slow where a kernel outgrows an image
                rows, half = F.pad(rows, (0, 0, half, half)), 0
            rows = F.conv2d(rows, weight[:, None, :, None], padding=(half, 0), groups=channels)
            x = rows.movedim(1, -1).reshape(shape)
        return x.movedim(-1, 1)

    def strips(self) -> Tensor:
        """Weights of the strip along each axis, ``[D, C, span]``: torch is faster at zeros than at dilation."""
        return F.pad(self.weight[..., None], (0, self.dilation - 1)).flatten(2)[..., : self.span]
