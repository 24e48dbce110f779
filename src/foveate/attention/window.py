"""Attention within windows, plain and then shifted by half a window.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021, sec. 3.2.
Departures: windows of at most 8^2 and 4^3 voxels, 64 in either case, not 7^2, and shorter ones where that leaves less
to fill up; as a block between convolutions it has no hidden layer behind the attention (the network ``window_unet``
has); no dropout and no stochastic depth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.attention.dot_product import head_count, received

WINDOW = {2: 8, 3: 4}  # voxels per axis of a window, at most


class ShiftedWindows(nn.Module):
    """x + attention(norm(x)) in plain windows, then in shifted ones; x ``[B, C, *S]``."""

    inputs: ClassVar[int] = 1

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.windows: Any = nn.ModuleList(WindowAttention(channels, spatial_dims, shifted) for shifted in (False, True))

    def attention(self, x: Tensor) -> Tensor:
        """What each voxel receives, mean over queries, heads and the two kinds: ``[B, 1, *S]``, which sums to 1."""
        x, maps = x.movedim(1, -1), []
        for norm, windows in zip(self.norms, self.windows, strict=True):
            maps.append(windows.received(norm(x)))
            x = x + windows(norm(x))
        return torch.stack(maps).mean(0)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        for norm, windows in zip(self.norms, self.windows, strict=True):
            x = x + windows(norm(x))
        return x.movedim(-1, 1)


class WindowAttention(nn.Module):
    """Self-attention among the voxels of one window, with a learnt bias for each head and relative position.

    ``[B, *S, C] -> [B, *S, C]``. Along an axis there are as few windows as there can be, all of one length: two of 3
    voxels for 5 or 6. What they lack is filled up, and ``shifted`` windows lie half a window further on and meet around
    the border; what is filled up, and what met around the border, is not attended to.
    """

    def __init__(self, channels: int, dims: int, shifted: bool) -> None:
        super().__init__()
        self.window, self.shifted = WINDOW[dims], shifted
        self.heads = head_count(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.bias = nn.Parameter(torch.zeros(self.heads, (2 * self.window - 1) ** dims))
        nn.init.trunc_normal_(self.bias, std=0.02)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, mask, place = self.embed(x)
        joined = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        joined = joined.unflatten(1, (-1, self.heads)).transpose(2, 3).flatten(3)  # [B, W, N, C]
        return place.back(self.project(joined))

    def received(self, x: Tensor) -> Tensor:
        """The attention that each voxel receives, mean over queries and heads: ``[B, *S]``, which sums to 1."""
        q, k, _, mask, place = self.embed(x)
        weights = received(q, k, mask).unflatten(1, (-1, self.heads)).mean(2)  # [B, W, N]
        return place.back(weights[..., None])[..., 0] / math.prod(place.size)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Windows]:
        """Queries, keys and values ``[B, W x heads, N, C / heads]``, mask ``[1, W x heads, N, N]``, the windows.

        Windows and heads share an axis, so that one mask serves all images of the batch.
        """
        place = Windows(x.shape[1:-1], self.window, self.shifted)
        qkv = self.qkv(place.cut(x)).unflatten(-1, (3, self.heads, -1))  # [B, W, N, 3, heads, C / heads]
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        mask = self.relative(place.window)[None]  # [1, heads, N, N]
        if place.apart:
            mask = mask + place.separation(x.device)[:, None]  # [W, heads, N, N]
        return q, k, v, mask.expand(place.count, -1, -1, -1).flatten(0, 1)[None], place

    def relative(self, window: Sequence[int]) -> Tensor:
        """The bias of every pair of voxels of a window of this size, ``[heads, N, N]``."""
        places = torch.cartesian_prod(*[torch.arange(n, device=self.bias.device) for n in window])  # [N, D]
        offsets = places[:, None] - places[None] + self.window - 1  # [N, N, D], each from 0 to 2 window - 2
        index = torch.zeros_like(offsets[..., 0])
        for offset in offsets.unbind(-1):
            index = index * (2 * self.window - 1) + offset
        return self.bias[:, index]


class Windows:
    """How an image of one size is cut into windows.

    size: of the image. window: voxels per axis, at most as told. padded: size filled up to whole windows.
    shift: by how much the filled-up image is rolled back. count: number of windows. apart: whether some voxels of a
    window may not see each other.
    """

    def __init__(self, size: Sequence[int], window: int, shifted: bool) -> None:
        self.size, self.axes = tuple(size), tuple(range(1, len(size) + 1))
        self.window = [even_share(n, window) for n in size]
        self.padded = [-(-n // w) * w for n, w in zip(size, self.window, strict=True)]
        self.shift = [w // 2 if shifted and p > w else 0 for w, p in zip(self.window, self.padded, strict=True)]
        self.count = math.prod(p // w for p, w in zip(self.padded, self.window, strict=True))
        self.apart = any(self.shift) or self.padded != list(size)

    def cut(self, x: Tensor) -> Tensor:
        """``[B, *S, C]`` -> the voxels of each window ``[B, W, N, C]``."""
        fill = [(0, p - n) for n, p in zip(self.size, self.padded, strict=True)]
        x = F.pad(x, [0, 0, *itertools.chain(*reversed(fill))])
        return cut(x.roll([-s for s in self.shift], self.axes), self.window)

    def back(self, tokens: Tensor) -> Tensor:
        """The inverse of ``cut``: ``[B, W, N, C] -> [B, *S, C]``, without what was filled up."""
        x = paste(tokens, self.window, self.padded).roll(self.shift, self.axes)
        return x[tuple(slice(n) for n in (len(x), *self.size))]

    def separation(self, device: torch.device) -> Tensor:
        """0 where two voxels of a window may see each other and -inf where not, ``[W, N, N]``.

        Filled-up voxels see each other alone: a row of nothing but -inf would have no softmax.
        """
        real = torch.zeros(1, *self.padded, 1, dtype=torch.long, device=device)
        real[tuple(slice(n) for n in (1, *self.size))] = 1
        side = torch.zeros_like(real)  # one bit per axis: came round the border
        for axis, (n, s) in enumerate(zip(self.padded, self.shift, strict=True)):
            came_round = torch.arange(n, device=device) >= n - s
            side = side + 2**axis * came_round.long().reshape(-1, *[1] * (len(self.padded) - axis))
        side = real.roll([-s for s in self.shift], self.axes) * (1 + side)
        tokens = cut(side, self.window)[0, :, :, 0]  # [W, N]
        apart = tokens[:, :, None] != tokens[:, None]
        return torch.zeros(apart.shape, device=device).masked_fill(apart, -torch.inf)


def even_share(size: int, most: int) -> int:
    """Voxels of each of the fewest parts of at most ``most`` that cover ``size`` of them."""
    return -(-size // -(-size // most))


def cut(x: Tensor, window: Sequence[int]) -> Tensor:
    """``[B, *S, C]``, S a multiple of the window -> the voxels of each window ``[B, W, N, C]``."""
    dims = len(window)
    for axis, w in enumerate(window):
        x = x.unflatten(1 + 2 * axis, (-1, w))  # in the end [B, S_1/w_1, w_1, S_2/w_2, w_2, ..., C]
    x = x.permute(0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1)
    return x.flatten(1, dims).flatten(2, dims + 1)


def paste(tokens: Tensor, window: Sequence[int], size: Sequence[int]) -> Tensor:
    """The inverse of ``cut``: ``[B, W, N, C] -> [B, *S, C]``."""
    dims = len(window)
    x = tokens.unflatten(2, tuple(window)).unflatten(1, tuple(n // w for n, w in zip(size, window, strict=True)))
    x = x.permute(0, *itertools.chain(*[(1 + axis, 1 + dims + axis) for axis in range(dims)]), 2 * dims + 1)
    return x.reshape(len(x), *size, -1)
