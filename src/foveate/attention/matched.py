"""What a block has to beat: the same number of parameters spent on convolution.

``convolution_like_NAME`` sits in a slot in the place of the block NAME. Not an attention block of ATTENTION: it weighs
nothing by anything. Nobody published it; it is the control of ``foveate bench ablation``.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from foveate.layers import conv

PREFIX = "convolution_like_"


class MatchedConvolution(nn.Module):
    """x + W_2 lrelu(W_1 x) with the hidden width that comes nearest to ``parameters``; x ``[B, C, *S]``.

    W_1 is 3^D, or 1^D where a single hidden channel of 3^D would already have more parameters. The smallest has
    2 C + 2 of them, more than the smallest blocks have.
    """

    inputs: ClassVar[int] = 1

    def __init__(self, channels: int, spatial_dims: int, parameters: int) -> None:
        super().__init__()
        left = parameters - channels  # the second convolution's bias
        kernel = 3 if left >= channels * 3**spatial_dims + channels + 1 else 1
        hidden = max(round(left / (channels * kernel**spatial_dims + channels + 1)), 1)
        self.body = nn.Sequential(
            conv(spatial_dims, channels, hidden, kernel=kernel),
            nn.LeakyReLU(inplace=True),
            conv(spatial_dims, hidden, channels, kernel=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def parameters_of(block: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in block.parameters())
