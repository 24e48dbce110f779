"""Large kernel attention: every voxel is weighed by what a large neighbourhood holds.

Source: Guo et al., "Visual Attention Network", Computational Visual Media 2023 (arXiv 2202.09741), eq. 1-2: a kernel of
21 as one of 5 and one of 7 with dilation 3. Departures: both kernels are products of strips, as in Lau et al., "Large
Separable Kernel Attention", Expert Systems with Applications 2024, because a depthwise kernel of 5^3 alone costs a CPU
four times a full 3^3 convolution; one bias, behind the last convolution (nothing but linear maps lies before it), and
it starts at one, so that the block, which has no residual path here, starts close to the identity.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from foveate.attention.box import DepthwiseBox
from foveate.layers import conv


class LargeKernelAttention(nn.Module):
    """W box7(box5(x)) * x, the second box with dilation 3. x ``[B, C, *S]``. The weights may be negative: no map."""

    inputs: ClassVar[int] = 1

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        mix: nn.Module = conv(spatial_dims, channels, channels, kernel=1)
        nn.init.ones_(mix.get_parameter("bias"))
        self.branch = nn.Sequential(
            DepthwiseBox(channels, spatial_dims, 5), DepthwiseBox(channels, spatial_dims, 7, dilation=3), mix
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.branch(x)
