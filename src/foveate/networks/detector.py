"""A detector: the U-Net's encoder and slots, its decoder down to the grid on which boxes are answered, and two towers.

Sources: those of ``tasks.detection``; Tian et al., "FCOS", ICCV 2019 (a tower for classes and one for sides); Lin et
al., "Focal Loss for Dense Object Detection", ICCV 2017 (the start of the classes' bias). Departures: the decoder of the
U-Net stands for the feature pyramid, and one grid answers for structures of every size, as its features have passed the
coarsest grid and come back; a tower is one convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from foveate.cohort.plan import Plan
from foveate.config import NetworkConfig
from foveate.errors import refuse
from foveate.layers import conv, conv_transpose, instance_norm
from foveate.networks.heads import DenseUpsampling
from foveate.networks.unet import Decoder, UNet, Up
from foveate.tasks.detection import map_strides, output_stage

PRIOR = 0.05  # score of every cell at the start: nearly all of them are background


class BoxDecoder(Decoder):
    """From the features of an encoder to the logits of ``tasks.Detection``: ``[B, K + 2 n, *M]``, whether training or
    not."""

    def __init__(self, plan: Plan, channels: int, config: NetworkConfig) -> None:
        nn.Module.__init__(self)
        refuse_maps(config)
        dims, widths, strides = plan.dims, plan.widths, plan.strides
        self.built_from = plan, channels, config
        self.finest = output_stage(plan)
        self.stages = nn.ModuleList(
            Up(dims, widths[i + 1], widths[i], strides[i + 1], config, conv_transpose)
            for i in reversed(range(self.finest, len(widths) - 1))
        )
        width, sides = widths[self.finest], 2 * dims
        self.heads = nn.ModuleList([tower(dims, width, channels - sides), tower(dims, width, sides)])
        self.crf = None
        nn.init.constant_(self.heads[0].get_parameter("3.bias"), math.log(PRIOR / (1 - PRIOR)))

    def head(self, channels: int) -> nn.Module:
        """Images from the features of the grid, which pre-training wants: ``features(...)[0] -> [B, channels, *S]``."""
        plan, _, _ = self.built_from
        return DenseUpsampling(plan.dims, plan.widths[self.finest], channels, map_strides(plan)[self.finest])

    def logits(self, features: Sequence[Tensor]) -> Tensor:
        return torch.cat([head(features[0]) for head in self.heads], 1)


class Detector(UNet):
    """``[B, C, *S] -> [B, K + 2 n, *M]``. Slots for attention: those of the U-Net, in the part of it that is there."""

    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    decoder_kind: ClassVar[type[Decoder]] = BoxDecoder


def refuse_maps(config: NetworkConfig) -> None:
    """Raise InputError for what belongs to maps of full resolution, which this network has not."""
    for field, value in (("crf", config.crf), ("head", config.head != "convolution" and config.head)):
        if value:
            expected = "nothing: boxes are answered on a coarser grid"
            raise refuse("configuration", f"network.{field}", str(value).lower(), expected, "Leave it out.")


def tower(dims: int, width: int, outputs: int) -> nn.Sequential:
    """``[B, width, *M] -> [B, outputs, *M]``."""
    return nn.Sequential(
        conv(dims, width, width, bias=False),
        instance_norm(width),
        nn.LeakyReLU(inplace=True),
        conv(dims, width, outputs, kernel=1),
    )
