"""External attention: every voxel attends to a small memory that all images share.

Source: Guo et al., "Beyond Self-Attention: External Attention using Two Linear Layers for Visual Tasks", 2021, eq. 5-8.
Departures: both normalisations in one expression, without an epsilon; the residual is scaled, from 0.1 on; no batch
normalisation and no rectifier behind it.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from foveate.attention.dot_product import GAMMA, to_image, to_tokens

MEMORY = 64  # units


class ExternalAttention(nn.Module):
    """x + gamma W a M_v; x ``[B, C, *S]``.

    a ``[N, 64]`` is the softmax over voxels of q M_k^T, divided by its sum over the units of the memory.
    """

    inputs: ClassVar[int] = 1

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels, bias=False)  # the softmax over voxels would undo a bias
        self.keys = nn.Linear(channels, MEMORY, bias=False)
        self.values = nn.Linear(MEMORY, channels, bias=False)
        self.project = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.tensor(GAMMA))

    def over_voxels(self, x: Tensor) -> Tensor:
        """log of the softmax over voxels of each unit's scores, ``[B, N, units]``."""
        return self.keys(self.query(to_tokens(x))).log_softmax(1)

    def attention(self, x: Tensor) -> Tensor:
        """What each voxel receives from the memory, mean over units: ``[B, 1, *S]``, which sums to 1."""
        return to_image(self.over_voxels(x).exp().mean(2, keepdim=True), x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        # exp(a) / sum exp(a) is the softmax's values over their sum.
        weights = self.over_voxels(x).softmax(2)
        return x + self.gamma * to_image(self.project(self.values(weights)), x.shape[2:])
