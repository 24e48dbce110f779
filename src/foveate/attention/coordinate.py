"""Coordinate attention: a weight per channel and position along each axis, multiplied over the axes.

Source: Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021, eq. 4-8. Departures: as many
axes as the image has; the channels are squeezed to a quarter, not to a thirty-second; no batch normalisation, because
segmentation batches are too small for its statistics.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn


class CoordinateAttention(nn.Module):
    """f = hardswish(W_1 [profiles of all axes]); g_a = sigmoid(W_a f_a) along axis a; returns x * prod_a g_a.

    x ``[B, C, *S]``. The profile of an axis is the mean over all other axes, ``[B, S_a, C]``.
    """

    inputs: ClassVar[int] = 1
    multiplies: ClassVar[bool] = True

    def __init__(self, channels: int, spatial_dims: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.act = nn.Hardswish()
        self.excite = nn.ModuleList(nn.Linear(hidden, channels) for _ in range(spatial_dims))

    def factors(self, x: Tensor) -> list[Tensor]:
        """g_a of every axis a, ``[B, C, 1, ..., S_a, ..., 1]`` in (0, 1)."""
        axes = range(2, x.ndim)
        profiles = [x.mean([a for a in axes if a != axis]).transpose(1, 2) for axis in axes]  # each [B, S_a, C]
        joined = self.act(self.squeeze(torch.cat(profiles, dim=1)))  # [B, sum of S, hidden]
        gates = [
            excite(part).sigmoid().transpose(1, 2)  # [B, C, S_a]
            for excite, part in zip(self.excite, joined.split(list(x.shape[2:]), dim=1), strict=True)
        ]
        return [
            gate.reshape(*gate.shape[:2], *[gate.shape[2] if a == axis else 1 for a in axes])
            for axis, gate in zip(axes, gates, strict=True)
        ]

    def attention(self, x: Tensor) -> Tensor:
        """prod_a g_a ``[B, C, *S]`` in (0, 1)."""
        first, *others = self.factors(x)
        return math.prod(others, start=first)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)
