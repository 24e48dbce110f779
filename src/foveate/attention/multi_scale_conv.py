"""Multi-scale convolutional attention: every voxel is weighed by what neighbourhoods of several sizes hold.

Source: Guo et al., "SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation", NeurIPS 2022, eq.
1-2. Departures: strips along three axes in 3D; the first kernel, 5 per axis, is a product of strips like the others,
because a depthwise kernel of 5^3 costs a CPU four times a 3^3 convolution; one bias, behind the last convolution
(nothing but linear maps lies before it), and it starts at one, so that the block, which has no residual path here,
starts close to the identity.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from foveate.attention.box import DepthwiseBox
from foveate.layers import conv

LOCAL, SCALES = 5, (7, 11, 21)  # voxels per axis: together a weight sees 5 + 21 - 1 = 25 of them


class MultiScaleConv(nn.Module):
    """a = box5(x); returns W (a + box7(a) + box11(a) + box21(a)) * x. x ``[B, C, *S]``.

    The weights may be negative: no map.
    """

    inputs: ClassVar[int] = 1

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.local = DepthwiseBox(channels, spatial_dims, LOCAL)
        self.scales = nn.ModuleList(DepthwiseBox(channels, spatial_dims, kernel) for kernel in SCALES)
        self.mix = conv(spatial_dims, channels, channels, kernel=1)
        nn.init.ones_(self.mix.get_parameter("bias"))

    def branch(self, x: Tensor) -> Tensor:
        """What x is multiplied with, ``[B, C, *S]``."""
        a = self.local(x)
        return self.mix(sum((scale(a) for scale in self.scales), start=a))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.branch(x)
