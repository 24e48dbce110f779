"""U-Net whose encoder attends within shifted windows, two- and three-dimensional by the same code.

Sources: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021;
Hatamizadeh et al., "Swin UNETR", 2022 (as the encoder of a U-Net, in 3D). Departures: widths and strides are those of
the plan, and the stage of full resolution is convolutional, as a window of raw voxels sees little and costs most (Swin
UNETR feeds that skip by a convolution too); stages shrink by an overlapping strided convolution, not by merging
patches; windows of 8^2 and 4^3 voxels, 64 in either case, not 7^2 and 7^3; no dropout and no stochastic depth; the
decoder is that of the U-Net.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.cohort.plan import Plan
from foveate.layers import conv
from foveate.networks.unet import Residual, UNet

WINDOW = {2: 8, 3: 4}  # voxels per axis of a window
HEAD = 16  # channels of an attention head; more where the width cannot be divided so
EXPANSION = 4  # of the hidden layer behind every attention


class WindowUNet(UNet):
    """A U-Net with two blocks of window attention, plain and shifted, in every encoder stage below full resolution, or
    in the only stage."""

    @staticmethod
    def stages(plan: Plan) -> Iterator[nn.Module]:
        inputs = [len(plan.channels), *plan.widths[:-1]]
        for depth, (i, o, stride) in enumerate(zip(inputs, plan.widths, plan.strides, strict=True)):
            attends = depth > 0 or len(plan.widths) == 1
            yield (WindowStage if attends else Residual)(plan.dims, i, o, stride)


class WindowStage(nn.Module):
    """Strided convolution, then attention in plain and in shifted windows. ``[B, I, *S] -> [B, O, *S/stride]``."""

    def __init__(self, dims: int, inputs: int, outputs: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.embed = conv(dims, inputs, outputs, stride=stride)
        self.blocks = nn.Sequential(WindowBlock(outputs, dims, shifted=False), WindowBlock(outputs, dims, shifted=True))
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).movedim(1, -1)  # [B, *S, C]
        return self.norm(self.blocks(x)).movedim(-1, 1)


class WindowBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), on ``[B, *S, C]`` of any size S. Liu 2021, eq. 3."""

    def __init__(self, channels: int, dims: int, shifted: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, dims, shifted)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, EXPANSION * channels),
            nn.GELU(),
            nn.Linear(EXPANSION * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.mlp(x)


class WindowAttention(nn.Module):
    """Self-attention among the voxels of one window, with a learnt bias for each head and relative position.

    ``[B, *S, C] -> [B, *S, C]``. Along an axis no longer than a window there is one window, of its length. Other axes
    are filled up to whole windows, and ``shifted`` windows lie half a window further on and meet around the border;
    what is filled up, and what met around the border, is not attended to.
    """

    def __init__(self, channels: int, dims: int, shifted: bool) -> None:
        super().__init__()
        self.window, self.shifted = WINDOW[dims], shifted
        self.heads = next(n for n in range(max(channels // HEAD, 1), 0, -1) if channels % n == 0)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.bias = nn.Parameter(torch.zeros(self.heads, (2 * self.window - 1) ** dims))
        nn.init.trunc_normal_(self.bias, std=0.02)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        size, channels = x.shape[1:-1], x.shape[-1]
        axes = tuple(range(1, x.ndim - 1))
        window = [min(self.window, n) for n in size]
        padded = [-(-n // w) * w for n, w in zip(size, window, strict=True)]
        shift = [w // 2 if self.shifted and p > w else 0 for w, p in zip(window, padded, strict=True)]
        fill = [(0, p - n) for n, p in zip(size, padded, strict=True)]
        x = F.pad(x, [0, 0, *itertools.chain(*reversed(fill))]).roll([-s for s in shift], axes)
        tokens = cut(x, window)  # [B, W, N, C]
        batch, windows, count, _ = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, windows, count, 3, self.heads, -1)
        # Windows and heads share an axis, so that one mask [1, W x heads, N, N] serves all images of the batch.
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # each [B, W x heads, N, C / heads]
        mask = self.relative(window)[None]  # [1, heads, N, N]
        if any(shift) or padded != list(size):
            mask = mask + separation(size, window, padded, shift, x.device)[:, None]  # [W, heads, N, N]
        mask = mask.expand(windows, -1, -1, -1).flatten(0, 1)[None]
        joined = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
        joined = joined.unflatten(1, (windows, self.heads)).transpose(2, 3).reshape(batch, windows, count, channels)
        x = paste(self.project(joined), window, padded).roll(shift, axes)
        return x[tuple(slice(n) for n in (batch, *size))]

    def relative(self, window: Sequence[int]) -> Tensor:
        """The bias of every pair of voxels of a window of this size, ``[heads, N, N]``."""
        places = torch.cartesian_prod(*[torch.arange(n, device=self.bias.device) for n in window])  # [N, D]
        offsets = places[:, None] - places[None] + self.window - 1  # [N, N, D], each from 0 to 2 window - 2
        index = torch.zeros_like(offsets[..., 0])
        for offset in offsets.unbind(-1):
            index = index * (2 * self.window - 1) + offset
        return self.bias[:, index]


def separation(
    size: Sequence[int], window: Sequence[int], padded: Sequence[int], shift: Sequence[int], device: torch.device
) -> Tensor:
    """0 where two voxels of a window may see each other and -inf where not, ``[W, N, N]``.

    size: of the image, which was filled up to ``padded`` and rolled by ``-shift``. Filled-up voxels see each other
    alone: a row of nothing but -inf would have no softmax.
    """
    real = torch.zeros(1, *padded, 1, dtype=torch.long, device=device)
    real[tuple(slice(n) for n in (1, *size))] = 1
    side = torch.zeros_like(real)  # one bit per axis: came round the border
    for axis, (n, s) in enumerate(zip(padded, shift, strict=True)):
        came_round = torch.arange(n, device=device) >= n - s
        side = side + 2**axis * came_round.long().reshape(-1, *[1] * (len(padded) - axis))
    side = real.roll([-s for s in shift], tuple(range(1, len(padded) + 1))) * (1 + side)
    tokens = cut(side, window)[0, :, :, 0]  # [W, N]
    apart = tokens[:, :, None] != tokens[:, None]
    return torch.zeros(apart.shape, device=device).masked_fill(apart, -torch.inf)


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
