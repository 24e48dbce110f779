"""Criss-cross attention: every voxel attends to the lines through it along all axes, in one softmax.

Source: Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019, eq. 1-2. Departures: as many
passes with the same weights as there are axes, three in 3D, which is what it takes to reach every voxel; scores are
divided by sqrt(C / 8); gamma starts at 0.1, not at 0, which would leave the embeddings without a gradient. One softmax
over lines of several axes is not in the reach of torch's attention; the scores, as many as voxels times the sum of the
sides, are held.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from foveate.attention.dot_product import GAMMA


class CrissCross(nn.Module):
    """``passes`` times x + gamma softmax(q k^T / sqrt(C / 8)) v, among the voxel and its lines; x ``[B, C, *S]``."""

    inputs: ClassVar[int] = 1

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        hidden = max(channels // 8, 1)
        self.passes = spatial_dims
        self.widths = hidden, hidden, channels
        self.qkv = nn.Linear(channels, sum(self.widths), bias=False)
        self.gamma = nn.Parameter(torch.tensor(GAMMA))

    def weights(self, q: Tensor, k: Tensor) -> list[Tensor]:
        """For each axis the weights of its line's voxels, ``[B, *others, L (queries), L (keys)]``.

        Weights of all axes together sum to 1 for every voxel. q and k ``[B, *S, d]``.
        """
        scores = []  # of each axis [B, *S, L], keys last
        for axis in range(1, q.ndim - 1):
            lines = (q.movedim(axis, -2) * q.shape[-1] ** -0.5) @ k.movedim(axis, -2).mT
            if axis > 1:  # the voxel itself lies on every line, and counts once
                itself = torch.eye(lines.shape[-1], dtype=torch.bool, device=q.device)
                lines = lines.masked_fill(itself, -torch.inf)
            scores.append(lines.movedim(-2, axis))
        weights = torch.cat(scores, -1).softmax(-1).split([lines.shape[-1] for lines in scores], -1)
        return [part.movedim(axis, -2) for axis, part in enumerate(weights, 1)]

    def once(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """One pass over ``[B, *S, C]``, and its weights."""
        q, k, v = self.qkv(x).split(self.widths, dim=-1)
        weights = self.weights(q, k)
        joined = [(part @ v.movedim(axis, -2)).movedim(-2, axis) for axis, part in enumerate(weights, 1)]
        return x + self.gamma * torch.stack(joined).sum(0), weights

    def attention(self, x: Tensor) -> Tensor:
        """What each voxel receives, mean over queries and passes: ``[B, 1, *S]``, which sums to 1."""
        x, maps = x.movedim(1, -1), []
        for _ in range(self.passes):
            x, weights = self.once(x)
            maps += [part.sum(-2).movedim(-1, axis) for axis, part in enumerate(weights, 1)]
        return (torch.stack(maps).sum(0) / (self.passes * maps[0][0].numel()))[:, None]

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        for _ in range(self.passes):
            x, _ = self.once(x)
        return x.movedim(-1, 1)
