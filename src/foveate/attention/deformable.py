"""Deformable attention: every voxel looks at a few places whose offsets and weights it chooses itself.

Source: Zhu et al., "Deformable DETR", ICLR 2021, eq. 2, with the voxels of one grid as queries and values. Departures:
the fixed grid from which offsets are counted is the centre and its neighbours along the axes, one voxel away in the
first head, two in the second and so on (theirs lies on a ring); the residual is scaled, from 0.1 on. As there, offsets
and weights start the same for all voxels, places between voxels are interpolated, and those outside the image give 0.
"""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.attention.dot_product import GAMMA, head_count


class Deformable(nn.Module):
    """x + gamma W sum_i a_i v(p + g_i + o_i): g the fixed grid, offsets o and weights a linear in x(p); ``[B, C, *S]``.

    Weights come from the query alone, through a softmax over the places; no keys.
    """

    inputs: ClassVar[int] = 1

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.heads = head_count(channels)
        steps = torch.cat([torch.zeros(1, spatial_dims), torch.eye(spatial_dims), -torch.eye(spatial_dims)])
        self.grid = nn.Buffer(torch.arange(1, self.heads + 1)[:, None, None] * steps)  # [h, points, D], in voxels
        points = self.grid[..., 0].numel()
        self.offsets = nn.Linear(channels, points * spatial_dims)
        self.weights = nn.Linear(channels, points)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.value = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.tensor(GAMMA))

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Places ``[B, h, points, *S, D]`` in voxels and their weights ``[B, h, points, *S]``; x ``[B, *S, C]``.

        In float32: bfloat16 tells no fraction of a voxel beyond the 128th.
        """
        heads, points, dims = self.grid.shape
        sides = [torch.arange(n, device=x.device) for n in x.shape[1:-1]]
        here = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1)  # [*S, D]
        offsets = self.offsets(x).float().unflatten(-1, (heads, points, dims)).movedim((-3, -2), (1, 2))
        weights = self.weights(x).float().unflatten(-1, (heads, points)).softmax(-1).movedim((-2, -1), (1, 2))
        return here + self.grid.float().reshape(heads, points, *[1] * dims, dims) + offsets, weights

    def attention(self, x: Tensor) -> Tensor:
        """What each voxel receives, mean over queries and heads: ``[B, 1, *S]``; 1 less what lies outside in sum."""
        size = x.shape[2:]
        places, weights = self.look(x.movedim(1, -1))
        places, weights = places.flatten(1, -2), weights.flatten(1)  # [B, all, D], [B, all]
        low = places.floor()
        image = weights.new_zeros(len(x), math.prod(size))
        for corner in itertools.product((0, 1), repeat=len(size)):  # the voxels that a place lies between
            voxel = low + low.new_tensor(corner)
            share = (weights * (1 - (places - voxel).abs()).prod(-1)).masked_fill(outside(voxel, size), 0)
            index = torch.zeros_like(share, dtype=torch.long)
            for axis, n in enumerate(size):
                index = index * n + voxel[..., axis].clamp(0, n - 1).long()
            image = image.scatter_add(1, index, share)
        return image.unflatten(1, size)[:, None] / (self.heads * math.prod(size))

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        tokens = x.movedim(1, -1)
        places, weights = self.look(tokens)
        value = self.value(tokens).float().movedim(-1, 1).unflatten(1, (self.heads, -1)).flatten(0, 1)  # [B h, C/h, *S]
        # From voxels to -1 at one face of the image and 1 at the other; the last axis comes first. Points are laid
        # along the first axis: [B h, points S_1, ..., D].
        grid = ((2 * places + 1) / places.new_tensor(size) - 1).flip(-1).flatten(0, 1).flatten(1, 2)
        looked = F.grid_sample(value, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        looked = looked.unflatten(2, (-1, size[0])) * weights.flatten(0, 1)[:, None]  # [B h, C/h, points, *S]
        joined = looked.sum(2).unflatten(0, (-1, self.heads)).flatten(1, 2).movedim(1, -1).to(x.dtype)
        return x + self.gamma * self.project(joined).movedim(-1, 1)


def outside(voxel: Tensor, size: torch.Size) -> Tensor:
    """Whether ``[..., D]`` lies outside an image of this size, ``[...]``."""
    return ((voxel < 0) | (voxel >= voxel.new_tensor(size))).any(-1)
