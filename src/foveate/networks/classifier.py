"""One answer for a whole image: the U-Net's residual encoder, a pooling of its coarsest features, a linear head.

Sources: He et al., CVPR 2016 (residual encoder, pooling, linear head); Ilse et al., ICML 2018 (attention pooling).
Departures: instance normalisation, as in the U-Net, and no stage of full resolution; layer normalisation of the pooled
vector before the head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from foveate.attention import POOLING
from foveate.cohort.plan import Plan
from foveate.config import NetworkConfig
from foveate.errors import refuse
from foveate.networks.heads import DenseUpsampling
from foveate.networks.unet import Decoder, UNet, build_attention, check_slots
from foveate.text import closest


class ImageDecoder(Decoder):
    """From the features of an encoder to images of full resolution, whatever the stride of its first stage."""

    def head(self, channels: int) -> nn.Module:
        plan = self.built_from[0]
        return DenseUpsampling(plan.dims, plan.widths[0], channels, plan.strides[0])


class Classifier(nn.Module):
    """``[B, C, *S] -> [B, K]``, in training and in evaluation. Slots for attention: encoder, bottleneck, pool."""

    tasks: ClassVar[tuple[str, ...]] = ("classification", "regression")
    takes_missing: ClassVar[bool] = False
    stages_of: ClassVar[type[UNet]] = UNet

    def __init__(self, plan: Plan, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.image_channels = len(plan.channels)
        self.plan = plan = self.fitted(plan)
        dims, widths, slots = plan.dims, plan.widths, config.attention
        refuse_decoder(config)
        check_slots(slots, plan)
        self.encoder = nn.ModuleList(
            nn.Sequential(stage, build_attention("encoder", slots.encoder, width, dims))
            for stage, width in zip(self.stages_of.stages(plan), widths, strict=True)
        )
        self.bottleneck = build_attention("bottleneck", slots.bottleneck, widths[-1], dims)
        self.pool: Any = build_pool(slots.pool, widths[-1])
        self.head: Any = nn.Sequential(nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], channels))

    @staticmethod
    def fitted(plan: Plan) -> Plan:
        """The plan without the stage of full resolution, which took three quarters of a step and told no more."""
        if len(plan.strides) == 1:
            return plan
        first = tuple(a * b for a, b in zip(plan.strides[0], plan.strides[1], strict=True))
        return plan.model_copy(update={"widths": plan.widths[:-1], "strides": (first, *plan.strides[2:])})

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features of every stage, finest first: ``[B, width_i, *S / strides up to i]``."""
        features = []
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        return [*features[:-1], self.bottleneck(x)]

    def restorer(self) -> Decoder:
        """What ``restore`` answers with: a decoder that is no part of the network, for pre-training."""
        return ImageDecoder(self.plan, self.image_channels, NetworkConfig(deep_supervision=False))

    def restore(self, x: Tensor, restorer: Decoder) -> Tensor:
        """Images ``[B, C, *S]`` from the features of x."""
        (image,) = restorer.logits(restorer.features(self.encode(x)))
        return image

    def forward(self, x: Tensor, perturb: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """perturb: applied to the features that the pooling sees."""
        feature = self.encode(x)[-1]
        logits: Tensor = self.head(self.pool(feature if perturb is None else perturb(feature)))
        return logits


def build_pool(name: str, channels: int) -> nn.Module:
    """The pooling for the slot ``pool``; raises InputError when the name is unknown."""
    if name not in POOLING:
        known = ", ".join(POOLING)
        raise refuse("configuration", "network.attention.pool", name, f"one of {known}", closest(name, POOLING))
    return POOLING[name](channels)


def refuse_decoder(config: NetworkConfig) -> None:
    """Raise InputError for what belongs to a decoder, which this network has not."""
    asked = {f"network.attention.{slot}": getattr(config.attention, slot) for slot in ("skip", "decoder")}
    wrong = {field: value for field, value in asked.items() if value != "none"}
    wrong |= {f"network.{field}": "true" for field in ("crf", "boxes") if getattr(config, field)}
    if config.head != "convolution":
        wrong["network.head"] = config.head
    for field, value in wrong.items():
        fix = "Leave it out; encoder, bottleneck and pool are its slots."
        raise refuse("configuration", field, value, "nothing: a whole image has one answer and no decoder", fix)
