"""Selective kernel: every channel chooses between a small and a large kernel by what the whole image holds.

Source: Li et al., "Selective Kernel Networks", CVPR 2019, eq. 1-6, with two branches. Departures: kernels of one group,
because the U-Net is narrow and even a depthwise 3^3 saves a CPU no time; the channels are squeezed to a quarter, at
least 8, not to a sixteenth, at least 32; each branch is normalised over all channels of an image, not over the batch,
which is too small for its statistics, and the squeezed vector not at all.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from foveate.layers import conv


class SelectiveKernel(nn.Module):
    """U_1 = relu(norm(conv3(x))), U_2 the same of dilation 2 (a kernel of 5); z = relu(W mean(U_1 + U_2)).

    Returns a U_1 + (1 - a) U_2 with a = softmax over the branches of A z. x ``[B, C, *S]``.
    """

    inputs: ClassVar[int] = 1
    multiplies: ClassVar[bool] = False

    def __init__(self, channels: int, spatial_dims: int, reduction: int = 4) -> None:
        super().__init__()
        self.small, self.large = (
            nn.Sequential(
                conv(spatial_dims, channels, channels, bias=False, dilation=dilation),
                nn.GroupNorm(1, channels),
                nn.ReLU(inplace=True),
            )
            for dilation in (1, 2)
        )
        hidden = max(channels // reduction, 8)
        self.squeeze = nn.Linear(channels, hidden)
        # Softmax over two branches is the sigmoid of their difference, so one layer stands for both.
        self.choose = nn.Linear(hidden, channels, bias=False)

    def _share(self, small: Tensor, large: Tensor) -> Tensor:
        """1 - a ``[B, C, 1, ...]`` from the branches ``[B, C, *S]``."""
        z = self.squeeze((small + large).flatten(2).mean(2)).relu()
        share = self.choose(z).sigmoid()  # [B, C]
        return share.reshape(*share.shape, *[1] * (small.ndim - 2))

    def attention(self, x: Tensor) -> Tensor:
        """1 - a, the share of the large kernel in every channel, ``[B, C, 1, ...]`` in (0, 1)."""
        return self._share(self.small(x), self.large(x))

    def forward(self, x: Tensor) -> Tensor:
        small, large = self.small(x), self.large(x)
        return small + self._share(small, large) * (large - small)
