"""Axial attention: every voxel attends to its own line along one axis after the other.

Sources: Ho et al., "Axial Attention in Multidimensional Transformers", 2019, sec. 3.1; Wang et al., "Axial-DeepLab",
ECCV 2020. Departures: no position encoding, which would fix the size (the convolutions around the block know the
border); a residual step per axis, scaled from 0.1 on; no normalisation.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.attention.dot_product import (
    GAMMA,
    head_count,
    join_heads,
    received,
    scaled_dot_product,
    split_heads,
)


class Axial(nn.Module):
    """For each axis in turn x + gamma W attention(x), among the voxels of a line along it; x ``[B, C, *S]``.

    After the last axis every voxel has been reached from every other.
    """

    inputs: ClassVar[int] = 1

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.lines: Any = nn.ModuleList(Line(channels, 1 + axis) for axis in range(spatial_dims))

    def attention(self, x: Tensor) -> Tensor:
        """What each voxel receives, mean over queries, heads and axes: ``[B, 1, *S]``, which sums to 1."""
        x, maps = x.movedim(1, -1), []
        for line in self.lines:
            maps.append(line.received(x))
            x = line(x)
        return torch.stack(maps).mean(0)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        for line in self.lines:
            x = line(x)
        return x.movedim(-1, 1)


class Line(nn.Module):
    """x + gamma W attention(x) along one axis of ``[B, *S, C]``, which is its axis number there."""

    channels_last: ClassVar[bool] = True

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__()
        self.axis, self.heads = axis, head_count(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.project = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.tensor(GAMMA))

    def embed(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values, each ``[B x lines, h, L, C / h]``."""
        lines = self.qkv(x.movedim(self.axis, -2)).flatten(0, -3)  # x is moved: it is a third as wide
        return [split_heads(part, self.heads) for part in lines.chunk(3, dim=-1)]

    def received(self, x: Tensor) -> Tensor:
        """What each voxel receives, mean over queries and heads: ``[B, *S]``."""
        q, k, _ = self.embed(x)
        lines = x.movedim(self.axis, -2).shape[:-1]  # [B, *others, L]
        weights = received(q, k).mean(1).reshape(lines).movedim(-1, self.axis)
        return weights / weights[0].numel()

    def forward(self, x: Tensor) -> Tensor:
        lines = x.movedim(self.axis, -2).shape  # [B, *others, L, C]
        joined = self.project(join_heads(scaled_dot_product(*self.embed(x))))
        return x + self.gamma * joined.reshape(lines).movedim(-2, self.axis)
