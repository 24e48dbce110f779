"""Multi-scale context attention network: an encoder of multi-scale convolutional attention under a light decoder.

Source: Guo et al., "SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation", NeurIPS 2022, sec.
3. Departures: widths and strides are those of the plan, with one block per stage; the stage of full resolution is a
residual block, as it costs most; instance in place of batch normalisation; the hidden layer behind every attention is
twice as wide, not four or eight times, and its 3^n convolution depthwise by strips; no stochastic depth; the decoder is
that of the U-Net, one convolution per stage, not the Hamburger.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foveate.attention import MultiScaleConv
from foveate.attention.box import DepthwiseBox
from foveate.layers import conv, instance_norm
from foveate.networks.unet import UNet

EXPANSION = 2  # of the hidden layer behind every attention
SCALE = 0.1  # of what a block adds, before it has learnt


class MultiScaleStage(nn.Module):
    """Strided convolution, then x + attend(x), x + mlp(x). ``[B, I, *S] -> [B, O, *S/stride]``."""

    def __init__(self, dims: int, inputs: int, outputs: int, stride: Sequence[int]) -> None:
        super().__init__()
        hidden = EXPANSION * outputs
        self.embed = nn.Sequential(conv(dims, inputs, outputs, stride=stride, bias=False), instance_norm(outputs))
        self.attend = nn.Sequential(
            instance_norm(outputs),
            conv(dims, outputs, outputs, kernel=1),
            nn.GELU(),
            MultiScaleConv(outputs, dims),
            conv(dims, outputs, outputs, kernel=1),
        )
        self.mlp = nn.Sequential(
            instance_norm(outputs),
            conv(dims, outputs, hidden, kernel=1),
            DepthwiseBox(hidden, dims, 3),
            nn.GELU(),
            conv(dims, hidden, outputs, kernel=1),
        )
        self.scale = nn.Parameter(torch.full((2, outputs, *[1] * dims), SCALE))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.scale[0] * self.attend(x)
        return x + self.scale[1] * self.mlp(x)


class MultiScaleUNet(UNet):
    """A U-Net with multi-scale attention in every encoder stage below full resolution, or in the only stage."""

    stage = MultiScaleStage
