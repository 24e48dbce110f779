"""U-Nets whose attention is part of their name: a block in a slot that the configuration leaves empty.

Sources: Oktay et al., "Attention U-Net", MIDL 2018 (gates on the skip connections); Feng et al., "CPFNet: Context
Pyramid Fusion Network for Medical Image Segmentation", TMI 2020 (pyramids on the skip connections and at the
bottleneck). Departures: encoder and decoder are those of the U-Net, so that attention alone differs; what else departs
stands in the files of the blocks.
"""

from __future__ import annotations

from typing import ClassVar

from foveate.cohort.plan import Plan
from foveate.config import NetworkConfig
from foveate.networks.unet import UNet


class AttentionUNet(UNet):
    """A U-Net whose skip connections pass gates, unless the configuration puts another block there."""

    slots: ClassVar[dict[str, str]] = {"skip": "gate"}

    def __init__(self, plan: Plan, channels: int, config: NetworkConfig) -> None:
        empty = {slot: name for slot, name in self.slots.items() if getattr(config.attention, slot) == "none"}
        attention = config.attention.model_copy(update=empty)
        super().__init__(plan, channels, config.model_copy(update={"attention": attention}))


class PyramidUNet(AttentionUNet):
    """A U-Net with pyramid pooling with attention on the skip connections and at the bottleneck."""

    slots: ClassVar[dict[str, str]] = {"skip": "spp", "bottleneck": "spp"}
