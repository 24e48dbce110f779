"""A CNN whose positions are weighed by attention and summed: for labels of whole images, and for where they come from.

Sources: Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018, eq. 7-9 (gated attention over a bag,
here of positions); Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, eq. 2 (a linear
head on pooled features is a sum over positions); Vaswani et al., NeurIPS 2017 (attention among positions, as any block
of ``ATTENTION`` in the slot ``bottleneck``).

Departures: the instances are positions of one feature map, not patches that are encoded one by one, so that each has
seen its surroundings and one pass gives all; classes share one attention, and their weights tell them apart; the
encoder is the U-Net's, cut where its map would be too coarse to show a place. Attention is over the positions of an
image, never over the images of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from foveate.attention.pooling import AttentionPooling
from foveate.cohort.plan import Plan
from foveate.config import NetworkConfig
from foveate.errors import refuse
from foveate.layers import at_voxels
from foveate.networks.unet import UNet, build_attention, check_slots

COARSEST = 8  # voxels from one position to the next at most
FEWEST = 8  # positions at least along every axis that is down-sampled


class PooledHead(nn.Module):
    """logit_k = w_k^T sum_i a_i h_i + b_k of the coarsest feature h: ``[B, C, *s] -> [B, K]``.

    As this is linear in h, logit_k = b_k + sum_i c_ki with c_ki = a_i w_k^T h_i: what position i adds to it.
    mask: ``[B, *s]``, true for the positions that count; by default all of them.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.pool = AttentionPooling(width)
        self.linear = nn.Linear(width, channels)

    def forward(self, features: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.linear(self.pool(features[-1], mask))
        return logits

    def contributions(self, features: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """c ``[B, K, *s]``, 0 at positions that do not count."""
        x = features[-1]
        x = x if mask is None else x.masked_fill(~mask[:, None], 0)
        evidence = (x.movedim(1, -1) @ self.linear.weight.mT).movedim(-1, 1)
        return self.pool.attention(x, mask) * evidence


class AttentionCNN(nn.Module):
    """Logits ``[B, K]`` of images ``[B, C, *S]``, S divisible by ``stride``, and the map that adds up to them.

    The slots ``encoder`` and ``bottleneck`` take attention blocks. One in the bottleneck joins the positions before
    they are weighed: the map still adds up, but each position then speaks for all that it has attended to.
    Raises InputError for a block that does not fit its slot, and for what only a decoder has.
    """

    takes_missing: ClassVar[bool] = False

    def __init__(self, plan: Plan, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.image_channels = len(plan.channels)
        refuse_decoder(config)
        plan = shortened(plan)
        check_slots(config.attention, plan)
        self.stride = tuple(math.prod(stage[axis] for stage in plan.strides) for axis in range(plan.dims))
        self.encoder = nn.ModuleList(
            nn.Sequential(stage, build_attention("encoder", config.attention.encoder, width, plan.dims))
            for stage, width in zip(UNet.stages(plan), plan.widths, strict=True)
        )
        self.bottleneck = build_attention("bottleneck", config.attention.bottleneck, plan.widths[-1], plan.dims)
        self.decoder = PooledHead(plan.widths[-1], channels)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features of every stage, finest first: ``[B, width_i, *S / strides up to i]``."""
        features = []
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        return [*features[:-1], self.bottleneck(x)]

    def forward(
        self, x: Tensor, perturb: Callable[[Tensor], Tensor] | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """mask: ``[B, *S]``, true inside the image. Padding is not attended to; convolutions at the border see it."""
        features = self.encode(x)
        return self.decoder(features if perturb is None else [perturb(f) for f in features], self._centres(mask))

    def contributions(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What each position adds to each logit, ``[B, K, *S / stride]``: summed over positions, logit less bias."""
        return self.decoder.contributions(self.encode(x), self._centres(mask))

    def at_voxels(self, values: Tensor) -> Tensor:
        """A map of positions ``[B, K, *S / stride]`` at every voxel ``[B, K, *S]``, linear between positions."""
        return at_voxels(values, self.stride)

    def _centres(self, mask: Tensor | None) -> Tensor | None:
        """Whether the voxel that a position is centred on counts, ``[B, *S] -> [B, *S / stride]``."""
        return mask if mask is None else mask[:, *(slice(None, None, step) for step in self.stride)]


def shortened(plan: Plan) -> Plan:
    """The plan with as many stages as leave a map that is fine enough to show a place."""
    size, reach, depth = plan.patch, (1,) * plan.dims, 1
    for stage in plan.strides[1:]:
        reach = tuple(r * step for r, step in zip(reach, stage, strict=True))
        if any(r > 1 and (r > COARSEST or n // r < FEWEST) for n, r in zip(size, reach, strict=True)):
            break
        depth += 1
    return plan.model_copy(update={"widths": plan.widths[:depth], "strides": plan.strides[:depth]})


def refuse_decoder(config: NetworkConfig) -> None:
    """Raise InputError for the parts of a configuration that need a decoder."""
    slots = {f"attention.{slot}": getattr(config.attention, slot) for slot in ("skip", "decoder")}
    found = {**slots, "head": config.head, "crf": config.crf}
    for name, value in found.items():
        if value not in ("none", "convolution", False):
            fix = f"Leave out network.{name}; blocks of attention go into network.attention.bottleneck or .encoder."
            raise refuse("configuration", f"network.{name}", value, "nothing: attention_cnn has no decoder", fix)
