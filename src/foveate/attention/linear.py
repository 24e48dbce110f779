"""Linear ("efficient") attention: keys and values are summed up first, so that cost is linear in the voxels.

Source: Shen et al., "Efficient Attention: Attention with Linear Complexities", WACV 2021, eq. 3-4. Departures: the
residual is scaled, from 0.1 on; no position encoding.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from foveate.attention.dot_product import GAMMA, head_count, join_heads, split_heads, to_image, to_tokens


class LinearAttention(nn.Module):
    """x + gamma W q (k^T v), q softmax over the channels of a head, k softmax over voxels; x ``[B, C, *S]``.

    q k^T, which is never formed, has rows that sum to 1, as those of a softmax over voxels.
    """

    inputs: ClassVar[int] = 1

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.heads = head_count(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.project = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.tensor(GAMMA))

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, each after its softmax, and values, each ``[B, h, N, C / h]``."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(to_tokens(x)).chunk(3, dim=-1))
        return q.softmax(-1), k.softmax(-2), v

    def attention(self, x: Tensor) -> Tensor:
        """What each voxel receives, mean over queries and heads: ``[B, 1, *S]``, which sums to 1."""
        q, k, _ = self.embed(x)
        weights = (k @ q.mean(2)[..., None]).mean(1)  # [B, N, 1]
        return to_image(weights, x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.embed(x)
        return x + self.gamma * to_image(self.project(join_heads(q @ (k.mT @ v))), x.shape[2:])
