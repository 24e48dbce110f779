"""Attention gate: the decoder's feature decides which voxels of the skip connection pass.

Source: Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018, eq. 1-2.
Departures: both inputs have the same grid and channels here (the decoder has already up-sampled), so nothing
is resampled; no batch normalisation inside, because segmentation batches are too small for its statistics.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from foveate.layers import conv


class AttentionGate(nn.Module):
    """alpha = sigmoid(psi(relu(W_x x + W_g g))); returns alpha * x.

    x: skip feature ``[B, C, *S]``; g: decoder feature ``[B, C, *S]``. psi's bias at +inf passes the skip
    unchanged, at -inf it gives zero.
    """

    inputs: ClassVar[int] = 2
    multiplies: ClassVar[bool] = True

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.of_skip = conv(spatial_dims, channels, hidden, kernel=1, bias=False)
        self.of_gate = conv(spatial_dims, channels, hidden, kernel=1)
        self.psi = conv(spatial_dims, hidden, 1, kernel=1)

    def attention(self, x: Tensor, g: Tensor) -> Tensor:
        """alpha ``[B, 1, *S]`` in (0, 1)."""
        return self.psi((self.of_skip(x) + self.of_gate(g)).relu()).sigmoid()

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        return x * self.attention(x, g)
