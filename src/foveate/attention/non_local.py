"""Non-local block: every voxel attends to every other.

Source: Wang et al., "Non-local Neural Networks", CVPR 2018, eq. 1 and 6, embedded Gaussian. Departures: scores are
divided by sqrt(C / 2); no sub-sampling of keys; a scale that starts at 0.1 stands in place of a normalisation that
starts at 0, with which the embeddings would have no gradient at first.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
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


class NonLocal(nn.Module):
    """x + gamma W softmax(theta(x) phi(x)^T / sqrt(C / 2)) g(x); x ``[B, C, *S]``.

    Raises InputError for more voxels than ``max_tokens``.
    """

    inputs: ClassVar[int] = 1
    name: ClassVar[str] = "non_local"
    max_tokens: int = MAX_TOKENS

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.widths = self.embedded(channels)
        self.qkv = nn.Linear(channels, sum(self.widths), bias=False)
        self.project = self.projection(channels)
        self.gamma = nn.Parameter(torch.tensor(GAMMA))

    def embedded(self, channels: int) -> tuple[int, int, int]:
        """Channels of queries, keys and values."""
        hidden = max(channels // 2, 1)
        return hidden, hidden, hidden

    def projection(self, channels: int) -> nn.Module:
        """From the values' channels back to the image's."""
        return nn.Linear(self.widths[-1], channels)

    def embed(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each ``[B, 1, N, width]``."""
        check_tokens("attention", self.name, math.prod(x.shape[2:]), self.max_tokens)
        return self.qkv(to_tokens(x))[:, None].split(self.widths, dim=-1)

    def attention(self, x: Tensor) -> Tensor:
        """What each voxel receives, mean over queries: ``[B, 1, *S]``, which sums to 1."""
        q, k, _ = self.embed(x)
        return (received(q, k) / q.shape[2]).unflatten(2, x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        joined = scaled_dot_product(*self.embed(x))[:, 0]
        return x + self.gamma * to_image(self.project(joined), x.shape[2:])
