"""A critic of label maps: for every voxel, how much its neighbourhood looks like a label and not like an answer.

Source: Hung et al., "Adversarial Learning for Semi-Supervised Semantic Segmentation", BMVC 2018, sec. 3.2. Departures:
three strided convolutions of width 16 to 64 in place of four of 64 to 512: few labels, small patches; in 3D too; He's
initialisation, without which a critic that has just been drawn has hardly an opinion.
"""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor, nn

from foveate.layers import conv, interpolate

WIDTHS = (16, 32, 64)
SLOPE = 0.2  # of the leaky rectifiers


class Critic(nn.Module):
    """Probabilities or labels ``[B, K, *S]`` -> logits ``[B, 1, *S]``, high for a label. No normalisation: each image
    is judged by itself, and how sure it is may count."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise((channels, *WIDTHS)):
            layer: Any = conv(dims, inputs, outputs, stride=2)
            nn.init.kaiming_normal_(layer.weight, SLOPE)
            layers += [layer, nn.LeakyReLU(SLOPE, inplace=True)]
        self.body = nn.Sequential(*layers, conv(dims, WIDTHS[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        return interpolate(self.body(x), x.shape[2:])
