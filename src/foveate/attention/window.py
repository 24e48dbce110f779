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
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
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

    channels_last: ClassVar[bool] = True

    def __init__(self, channels: int, dims: int, shifted: bool) -> None:
        super().__init__()
        self.window, self.shifted = WINDOW[dims], shifted
        self.heads = head_count(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.bias = nn.Parameter(torch.zeros(self.heads, (2 * self.window - 1) ** dims))
        nn.init.trunc_normal_(self.bias, std=0.02)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, mask, windows = self.embed(x)
        joined = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        joined = joined.unflatten(1, (-1, self.heads)).transpose(2, 3).flatten(3)  # [B, W, N, C]
        return self.project(windows.back(joined))

    def received(self, x: Tensor) -> Tensor:
        """The attention that each voxel receives, mean over queries and heads: ``[B, *S]``, which sums to 1."""
        q, k, _, mask, windows = self.embed(x)
        weights = received(q, k, mask).unflatten(1, (-1, self.heads)).mean(2)  # [B, W, N]
        return windows.back(weights[..., None])[..., 0] / math.prod(windows.size)

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Windows]:
        """Queries, keys and values ``[B, W x heads, N, C / heads]``, mask ``[1, W x heads, N, N]``, the windows.

        Windows and heads share an axis, so that one mask serves all images of the batch.
        """
        windows = windows_of(tuple(map(int, x.shape[1:-1])), self.window, self.shifted)
        qkv = windows.cut(self.qkv(x)).unflatten(-1, (3, self.heads, -1))  # [B, W, N, 3, heads, C / heads]
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        pairs = torch.tensor(windows.pairs, device=x.device)
        mask = self.bias.index_select(1, pairs.flatten()).unflatten(1, pairs.shape)[None]  # [1, heads, N, N]
        if windows.apart:
            sides = torch.tensor(windows.sides, device=x.device)  # [W, N]
            mask = mask.masked_fill((sides[:, :, None] != sides[:, None])[:, None], -torch.inf)  # [W, heads, N, N]
        return q, k, v, mask.expand(len(windows.sides), -1, -1, -1).flatten(0, 1)[None], windows


@dataclass(frozen=True)
class Windows:
    """How an image of one size is cut into W windows of N voxels each.

    voxels ``[W, N]``: number of the voxel that lies at each place; what is filled up repeats the last voxel of an axis.
    places ``[V]``: the reverse, where each voxel of the image lies among the W N.
    sides ``[W, N]``: voxels of a window may see each other where these are equal: 0 is what is filled up, which sees
    itself, as a row of nothing but -inf would have no softmax. apart: whether some differ.
    pairs ``[N, N]``: which bias a pair of voxels has.
    """

    size: tuple[int, ...]
    voxels: np.ndarray
    places: np.ndarray
    sides: np.ndarray
    apart: bool
    pairs: np.ndarray

    def cut(self, x: Tensor) -> Tensor:
        """``[B, *S, C]`` -> the voxels of each window ``[B, W, N, C]``."""
        index = torch.tensor(self.voxels, device=x.device)
        return x.flatten(1, -2).index_select(1, index.flatten()).unflatten(1, index.shape)

    def back(self, tokens: Tensor) -> Tensor:
        """The inverse of ``cut``: ``[B, W, N, C] -> [B, *S, C]``, without what was filled up."""
        index = torch.tensor(self.places, device=tokens.device)
        return tokens.flatten(1, 2).index_select(1, index).unflatten(1, self.size)


@lru_cache(maxsize=16)  # arrays, as a tensor that was made while a model is exported must not be met again
def windows_of(size: tuple[int, ...], most: int, shifted: bool) -> Windows:
    """Windows of at most so many voxels per axis. ``shifted``: the filled-up image is rolled back by half a window."""
    axes, window = range(len(size)), [even_share(n, most) for n in size]
    fill = [(0, -n % w) for n, w in zip(size, window, strict=True)]
    padded = [n + more for n, (_, more) in zip(size, fill, strict=True)]
    shift = [w // 2 if shifted and p > w else 0 for w, p in zip(window, padded, strict=True)]
    real = np.pad(np.ones(size, int), fill)
    places = np.indices(padded, sparse=True)
    sides = real * (1 + sum(2**axis * (places[axis] < shift[axis]) for axis in axes))  # a bit: comes round the border
    voxels = np.pad(np.arange(math.prod(size)).reshape(size), fill, "edge")

    def cut(x: np.ndarray) -> np.ndarray:
        x = np.roll(x, [-s for s in shift], axes)
        x = x.reshape([n for p, w in zip(padded, window, strict=True) for n in (p // w, w)])
        order = [*range(0, x.ndim, 2), *range(1, x.ndim, 2)]
        return x.transpose(order).reshape(-1, math.prod(window))

    voxels, sides = cut(voxels), cut(sides)
    reverse = np.empty(math.prod(size), int)
    reverse[voxels[sides > 0]] = np.flatnonzero(sides)
    within = np.indices(window).reshape(len(size), -1)
    offsets = within[:, :, None] - within[:, None] + most - 1  # [D, N, N], each from 0 to 2 most - 2
    pairs = np.ravel_multi_index(tuple(offsets), [2 * most - 1] * len(size))
    return Windows(size, voxels, reverse, sides, any(shift) or padded != list(size), pairs)


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
