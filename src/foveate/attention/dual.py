"""The two blocks of dual attention: among positions, and among channels.

Source: Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, eq. 1-4. Departures: the scores of
positions are divided by sqrt(C / 8), those of channels by the number of voxels, so that neither saturates and channels
attend alike at every image size; gamma starts at 0.1, not at 0, which would leave the embeddings without a gradient.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.attention.dot_product import (
    GAMMA,
    MAX_TOKENS,
    check_tokens,
    received,
    scaled_dot_product,
    to_image,
    to_tokens,
)


class Position(nn.Module):
    """x + gamma softmax(q k^T / sqrt(C / 8)) v, q and k of C / 8 channels, v of C; x ``[B, C, *S]``.

    Raises InputError for more voxels than ``max_tokens``.
    """

    inputs: ClassVar[int] = 1
    max_tokens: int = MAX_TOKENS

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        hidden = max(channels // 8, 1)
        self.widths = hidden, hidden, channels
        self.qkv = nn.Linear(channels, sum(self.widths), bias=False)
        self.gamma = nn.Parameter(torch.tensor(GAMMA))

    def embed(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries and keys ``[B, 1, N, C / 8]``, values ``[B, 1, N, C]``."""
        check_tokens("attention", "position", math.prod(x.shape[2:]), self.max_tokens)
        return self.qkv(to_tokens(x))[:, None].split(self.widths, dim=-1)

    def attention(self, x: Tensor) -> Tensor:
        """What each voxel receives, mean over queries: ``[B, 1, *S]``, which sums to 1."""
        q, k, _ = self.embed(x)
        return (received(q, k) / q.shape[2]).unflatten(2, x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * to_image(scaled_dot_product(*self.embed(x))[:, 0], x.shape[2:])


class Channel(nn.Module):
    """x + gamma softmax(x x^T / N) x: each channel attends to those that look alike; x ``[B, C, *S]``."""

    inputs: ClassVar[int] = 1

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor(GAMMA))

    def attention(self, x: Tensor) -> Tensor:
        """What each channel receives, mean over channels: ``[B, C, 1, ...]``, which sums to 1."""
        tokens = x.flatten(2)  # [B, C, N]
        weights = (tokens @ tokens.mT / tokens.shape[2]).softmax(-1)  # [B, C, C]
        return weights.mean(1).reshape(*x.shape[:2], *[1] * (x.ndim - 2))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)[:, None]  # [B, 1, C, N]: the channels are the tokens
        joined = F.scaled_dot_product_attention(tokens, tokens, tokens, scale=1 / tokens.shape[3])
        return x + self.gamma * joined.reshape(x.shape)
