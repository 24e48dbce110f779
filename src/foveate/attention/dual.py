"""The two blocks of dual attention: among positions, and among channels.

Source: Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, eq. 1-4. Departures: the scores of
positions are divided by sqrt(C / 8), those of channels by the number of voxels, so that neither saturates and channels
attend alike at every image size; gamma starts at 0.1, not at 0, which would leave the embeddings without a gradient.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.attention.dot_product import GAMMA
from foveate.attention.non_local import NonLocal


class Position(NonLocal):
    """x + gamma softmax(q k^T / sqrt(C / 8)) v, q and k of C / 8 channels, v of C; x ``[B, C, *S]``.

    Raises InputError for more voxels than ``max_tokens``.
    """

    name: ClassVar[str] = "position"

    def embedded(self, channels: int) -> tuple[int, int, int]:
        hidden = max(channels // 8, 1)
        return hidden, hidden, channels

    def projection(self, channels: int) -> nn.Module:
        return nn.Identity()


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
