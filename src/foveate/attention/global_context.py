"""Global context: every voxel is given the same vector, a weighted mean of all voxels.

Source: Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", ICCV 2019 workshops, eq. 5.
Departures: the channels are squeezed to a quarter, not to a sixteenth; the last layer does not start at zero, so that
all of the block learns from the first step.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from foveate.layers import conv


class GlobalContext(nn.Module):
    """alpha = softmax(w^T x) over voxels; returns x + W_2 relu(norm(W_1 sum_j alpha_j x_j)). x ``[B, C, *S]``."""

    inputs: ClassVar[int] = 1
    multiplies: ClassVar[bool] = False

    def __init__(self, channels: int, spatial_dims: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.score = conv(spatial_dims, channels, 1, kernel=1, bias=False)  # softmax does not see a bias
        self.transform = nn.Sequential(
            nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )

    def attention(self, x: Tensor) -> Tensor:
        """alpha ``[B, 1, *S]``, which sums to 1 over voxels."""
        scores = self.score(x)
        return scores.flatten(2).softmax(2).reshape(scores.shape)

    def forward(self, x: Tensor) -> Tensor:
        context = self.transform((x.flatten(2) @ self.attention(x).flatten(2).transpose(1, 2))[..., 0])  # [B, C]
        return x + context.reshape(*context.shape, *[1] * (x.ndim - 2))
