"""Critics of label maps: how much one looks like a label and not like an answer.

``Critic``, for every voxel's neighbourhood. Source: Hung et al., "Adversarial Learning for Semi-Supervised Semantic
Segmentation", BMVC 2018, sec. 3.2. Departures: three strided convolutions of width 16 to 64 in place of four of 64 to
512: few labels, small patches; in 3D too; He's initialisation, without which a critic that has just been drawn has
hardly an opinion.

``ShapeCritic``, for the whole map. Source: Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017: a
number that is not squashed, no batch normalisation, and the gradient penalty, eq. 3. Departures: four strided
convolutions, the mean of what they say in place of a last layer that knows only one size, and distances by root mean
square.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
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


class ShapeCritic(nn.Module):
    """Probabilities or labels ``[B, K, *S]`` -> scores ``[B]`` without bounds, high for a label. Only their differences
    mean something, so the last layer has no bias."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise((channels, *WIDTHS, WIDTHS[-1])):
            layer: Any = conv(dims, inputs, outputs, stride=2)
            nn.init.kaiming_normal_(layer.weight, SLOPE)
            layers += [layer, nn.LeakyReLU(SLOPE)]
        self.body = nn.Sequential(*layers, conv(dims, WIDTHS[-1], 1, kernel=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body(x)
        return scores.flatten(1).mean(1)


def gradient_penalty(critic: Callable[[Tensor], Tensor], labels: Tensor, answers: Tensor, share: Tensor) -> Tensor:
    """Mean of (||dD/dx|| - 1)^2 at ``share [B]`` of the way from ``answers`` to ``labels``, both ``[B, K, *S]``.

    Maps are apart by their root mean square over voxels, so that scores have one scale at every size of image.
    """
    share = share.reshape(-1, *[1] * (labels.ndim - 1))
    between = (share * labels + (1 - share) * answers).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    voxels = labels[0, 0].numel()
    return (slope.flatten(1).norm(dim=1) * voxels**0.5 - 1).square().mean()
