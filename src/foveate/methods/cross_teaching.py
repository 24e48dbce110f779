"""Cross teaching: a convolutional network and a transformer, each learns the other's hard answer.

Source: Luo et al., "Semi-Supervised Medical Image Segmentation via Cross Teaching between CNN and Transformer", MIDL
2022. Departures: the task's own loss (soft Dice and cross-entropy) in place of Dice alone; the transformer is a U-Net
with shifted-window attention of the plan's own widths, without pre-trained weights; what they teach each other weighs
1, not 0.1 (published code); the model is the average of the network of the configuration, whichever of the two that is.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from foveate.methods.cross_pseudo import CrossPseudo
from foveate.methods.method import Builder
from foveate.networks import WindowUNet


class CrossTeaching(CrossPseudo):
    """As cross pseudo supervision, between two kinds of network: what one gets wrong the other need not."""

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    reason: ClassVar[str] = "pairs a U-Net with a window transformer, both for segmentation"

    def other(self, build: Builder) -> nn.Module:
        """The second network: a transformer beside a convolutional network, and the reverse."""
        other = build("unet" if isinstance(self.network, WindowUNet) else "window_unet")
        return Imputed(other) if getattr(self.network, "takes_missing", False) else other


class Imputed(nn.Module):
    """A network that needs all modalities beside one that does not: it sees the mean, 0, where one is missing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        answer: Tensor | list[Tensor] = self.network(x.nan_to_num(nan=0.0))
        return answer
