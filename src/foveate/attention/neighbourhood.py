"""Neighbourhood attention: every voxel attends to the window around it.

Source: Hassani et al., "Neighborhood Attention Transformer", CVPR 2023, eq. 1-4. At the border the window does not
shrink, it is moved inwards. Departures: no bias for relative positions, which keeps the scores out of memory (the
convolutions around the block know where things lie); windows of 7^2 and 5^3 voxels; the residual is scaled, from 0.1
on.

The image is cut into tiles, and a tile's voxels attend together to the tile and what lies around it, under a mask: a
few times the work of the windows alone, in a few large products, and 4 (2D) to 8 (3D) copies of the keys in place of
the 49 to 125 that unfolded windows take. Both grow linearly with the voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.attention.dot_product import GAMMA, head_count, received
from foveate.attention.window import cut, even_share, paste

KERNEL = {2: 7, 3: 5}  # voxels per axis of a neighbourhood; odd
TILE = {2: 8, 3: 4}  # voxels per axis of a tile of a larger image, at most


class Neighbourhood(nn.Module):
    """x + gamma W softmax(q k^T / sqrt(d)) v, keys of the ``kernel`` voxels around in every axis; x ``[B, C, *S]``.

    Along an axis shorter than the kernel, the neighbourhood is the axis.
    """

    inputs: ClassVar[int] = 1

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.kernel, self.tile = KERNEL[spatial_dims], TILE[spatial_dims]
        self.heads = head_count(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.project = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.tensor(GAMMA))

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tiles]:
        """Queries, keys and values of each tile, ``[tiles, B x heads, voxels, C / heads]``, and the tiles."""
        tiles = Tiles(x.shape[2:], self.kernel, self.tile, x.device)
        q, k, v = self.qkv(x.movedim(1, -1)).chunk(3, dim=-1)
        found = (tiles.queries(q), tiles.around(k), tiles.around(v))  # each [B, tiles, voxels, C]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).permute(1, 0, 3, 2, 4).flatten(1, 2) for part in found)
        return q, k, v, tiles

    def attention(self, x: Tensor) -> Tensor:
        """What each voxel receives, mean over queries and heads: ``[B, 1, *S]``, which sums to 1."""
        q, k, _, tiles = self.embed(x)
        weights = received(q, k, tiles.sees(real=True)).unflatten(1, (len(x), -1)).mean(2).transpose(0, 1)
        return tiles.gather(weights)[:, None] / math.prod(x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, tiles = self.embed(x)
        joined = F.scaled_dot_product_attention(q, k, v, attn_mask=tiles.sees())
        joined = joined.unflatten(1, (len(x), -1)).permute(1, 0, 3, 2, 4).flatten(3)  # [B, tiles, voxels, C]
        return x + self.gamma * self.project(tiles.join(joined)).movedim(-1, 1)


class Tiles:
    """Tiles of an image, and around each the voxels that its own may see.

    Of every axis: ``tile`` voxels per tile, the last tile filled up; ``halo`` voxels around each, which stay inside the
    image; ``index [tiles, halo]`` of these. ``whole``: the image is a single tile, and so nothing is copied.
    """

    def __init__(self, size: Sequence[int], kernel: int, tile: int, device: torch.device) -> None:
        self.size, self.axes = tuple(size), range(len(size))
        # Where a tile's surroundings are the whole axis, its voxels may as well be one tile: fewer copies of the keys.
        self.tile = [n if tile + kernel > n else even_share(n, tile) for n in size]
        self.counts = [-(-n // t) for n, t in zip(size, self.tile, strict=True)]
        self.whole = all(count == 1 for count in self.counts)
        self.kernel = [min(kernel, n) for n in size]
        self.halo = [min(t + k - 1, n) for t, k, n in zip(self.tile, self.kernel, size, strict=True)]
        self.index = []
        for axis in self.axes:
            start = torch.arange(self.counts[axis], device=device) * self.tile[axis] - self.kernel[axis] // 2
            start = start.clamp(0, size[axis] - self.halo[axis])
            self.index.append(start[:, None] + torch.arange(self.halo[axis], device=device))

    def queries(self, x: Tensor) -> Tensor:
        """``[B, *S, C]`` -> the voxels of each tile ``[B, tiles, voxels, C]``."""
        if self.whole:
            return x.flatten(1, -2)[:, None]
        fill = [(0, c * t - n) for c, t, n in zip(self.counts, self.tile, self.size, strict=True)]
        return cut(F.pad(x, [0, 0, *[n for pair in reversed(fill) for n in pair]]), self.tile)

    def join(self, tiles: Tensor) -> Tensor:
        """The inverse of ``queries``."""
        if self.whole:
            return tiles[:, 0].unflatten(1, self.size)
        x = paste(tiles, self.tile, [c * t for c, t in zip(self.counts, self.tile, strict=True)])
        return x[tuple(slice(n) for n in (len(x), *self.size))]

    def around(self, x: Tensor) -> Tensor:
        """``[B, *S, C]`` -> the voxels around each tile ``[B, tiles, halo, C]``."""
        if self.whole:
            return x.flatten(1, -2)[:, None]
        for axis in self.axes:
            x = x.index_select(1 + axis, self.index[axis].flatten())
        return cut(x, self.halo)

    def gather(self, weights: Tensor) -> Tensor:
        """Sums over tiles of what the voxels around them got: ``[B, tiles, halo] -> [B, *S]``."""
        x = paste(weights[..., None], self.halo, [c * h for c, h in zip(self.counts, self.halo, strict=True)])[..., 0]
        for axis in self.axes:
            shape = [*x.shape[: 1 + axis], self.size[axis], *x.shape[2 + axis :]]
            x = x.new_zeros(shape).index_add(1 + axis, self.index[axis].flatten(), x)
        return x

    def sees(self, real: bool = False) -> Tensor:
        """Whether a voxel of a tile sees one around it: ``[tiles, 1, voxels, halo]``.

        Filled-up voxels see what the last voxel does, as a softmax needs something; with ``real`` they see nothing.
        """
        seen = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.index[0].device)
        for axis, index in enumerate(self.index):
            n, k, t = self.size[axis], self.kernel[axis], self.tile[axis]
            place = torch.arange(self.counts[axis] * t, device=index.device)
            start = (place.clamp(max=n - 1) - k // 2).clamp(0, n - k).unflatten(0, (-1, t))[..., None]  # [tiles, t, 1]
            here = (index[:, None] >= start) & (index[:, None] < start + k)  # [tiles, t, halo]
            if real:
                here = here & (place < n).unflatten(0, (-1, t))[..., None]
            # Tiles by tiles, voxels by voxels, halo by halo, the last axis fastest, as in ``cut``.
            seen = seen[:, None, :, None, :, None] & here[None, :, None, :, None, :] if axis else here
            if axis:
                seen = seen.flatten(4, 5).flatten(2, 3).flatten(0, 1)
        return seen[:, None]
