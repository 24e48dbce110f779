"""Efficient paired attention: among voxels and among channels, with shared queries and keys.

Source: Shaker et al., "UNETR++: Delving into Efficient and Accurate 3D Medical Image Segmentation", TMI 2024, sec. 3.2.
Departures: theirs projects the N keys and values to 32 or 64 by a matrix that is learnt for one N; here its rows are
softmaxes over the voxels of a 1x1 convolution of x, so that the block works at any size. A linear layer in place of
two convolutions joins the two attentions; the residual is scaled from 0.1 on, not from 1e-6; no position encoding.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.attention.dot_product import (
    GAMMA,
    head_count,
    join_heads,
    received,
    scaled_dot_product,
    split_heads,
    to_image,
    to_tokens,
)

PROJECTED = 32  # keys and values of the attention among voxels


class EfficientPaired(nn.Module):
    """x + gamma W (x_s + x_c); x ``[B, C, *S]``.

    x_s = softmax(q (P k)^T / sqrt(d)) P v_s among voxels, P ``[B, 32, N]``; x_c = softmax(t q^T k) v_c among the
    channels of a head, q and k there of length 1 over the voxels, t learnt.
    """

    inputs: ClassVar[int] = 1

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.heads = head_count(channels)
        self.embed = nn.Linear(channels, 4 * channels, bias=False)
        self.shrink = nn.Linear(channels, PROJECTED, bias=False)
        self.temperature = nn.Parameter(torch.ones(self.heads, 1, 1))
        self.project = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.tensor(GAMMA))

    def attention(self, x: Tensor) -> Tensor:
        """What each voxel receives from the other voxels, mean over queries and heads: ``[B, 1, *S]``; sums to 1."""
        tokens = to_tokens(x)
        q, k, *_ = (split_heads(part, self.heads) for part in self.embed(tokens).chunk(4, dim=-1))
        p = self.projection(tokens)[:, None]  # [B, 1, 32, N]
        weights = (received(q, p @ k) / q.shape[2])[:, :, None].to(p.dtype) @ p  # [B, h, 1, N]
        return weights.mean(1).unflatten(2, x.shape[2:])

    def projection(self, tokens: Tensor) -> Tensor:
        """P ``[B, 32, N]``, whose rows sum to 1, of tokens ``[B, N, C]``."""
        return self.shrink(tokens).mT.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x).contiguous()  # once for both projections
        q, k, among_voxels, among_channels = self.embed(tokens).chunk(4, dim=-1)  # each [B, N, C]
        p = self.projection(tokens)  # the same for all heads
        voxels = scaled_dot_product(*(split_heads(part, self.heads) for part in (q, p @ k, p @ among_voxels)))
        parts = F.normalize(q, dim=1), F.normalize(k, dim=1), among_channels
        q, k, v = (split_heads(part, self.heads).mT for part in parts)  # [B, h, d, N]
        channels = F.scaled_dot_product_attention(q * self.temperature, k, v, scale=1.0).mT
        return x + self.gamma * to_image(self.project(join_heads(voxels + channels)), x.shape[2:])
