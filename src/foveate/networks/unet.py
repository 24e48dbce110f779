"""U-Net with a residual encoder, two- and three-dimensional, with named slots for attention.

Sources: Ronneberger 2015 (U-Net); He 2016 (residual blocks); Isensee 2024 (residual encoders for U-Nets);
Lee 2015 (deep supervision). One residual block per encoder stage and one convolution per decoder stage: with
few labelled scans and few minutes, steps are worth more than depth.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.attention import ATTENTION
from foveate.attention.dot_product import check_tokens
from foveate.attention.matched import PREFIX, MatchedConvolution, parameters_of
from foveate.cohort.plan import Plan
from foveate.config import AttentionSlots, NetworkConfig
from foveate.errors import refuse
from foveate.layers import JoiningConv, conv, conv_transpose, instance_norm, without_absent
from foveate.networks.box_network import BoxNetwork
from foveate.networks.crf import CRF
from foveate.networks.heads import DenseUpsampling
from foveate.text import closest

Upsampling = Callable[[int, int, int, Sequence[int]], nn.Module]  # (dims, inputs, outputs, stride)


class Residual(nn.Module):
    """conv(stride) - norm - act - conv - norm, plus the (projected) input, act. ``[B, I, *S] -> [B, O, *S/stride]``.

    second: side of the second convolution's kernel.
    """

    second: ClassVar[int] = 3

    @staticmethod
    def norm(dims: int, channels: int) -> nn.Module:
        return instance_norm(channels)

    def __init__(self, dims: int, inputs: int, outputs: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(dims, inputs, outputs, stride=stride, bias=False),
            self.norm(dims, outputs),
            nn.LeakyReLU(inplace=True),
            conv(dims, outputs, outputs, kernel=self.second, bias=False),
            self.norm(dims, outputs),
        )
        changes = inputs != outputs or any(step != 1 for step in stride)
        self.shortcut = conv(dims, inputs, outputs, kernel=1, stride=stride, bias=False) if changes else nn.Identity()
        self.act = nn.LeakyReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x).add_(self.shortcut(x)))


class Up(nn.Module):
    """Decoder stage: up-sample, let attention weigh the skip connection, join, convolve."""

    def __init__(
        self, dims: int, inputs: int, outputs: int, stride: Sequence[int], config: NetworkConfig, up: Upsampling
    ) -> None:
        super().__init__()
        self.up = up(dims, inputs, outputs, stride)
        self.skip_attention = build_attention("skip", config.attention.skip, outputs, dims, inputs=(1, 2))
        self.join = JoiningConv(dims, outputs, outputs)
        self.body = nn.Sequential(instance_norm(outputs), nn.LeakyReLU(inplace=True))
        self.attention = build_attention("decoder", config.attention.decoder, outputs, dims)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        skip = (
            self.skip_attention(skip, x)
            if getattr(self.skip_attention, "inputs", 1) == 2
            else self.skip_attention(skip)
        )
        return self.attention(self.body(self.join(x, skip)))


class Decoder(nn.Module):
    """From the features of an encoder to logits: ``[B, width_i, *S_i]`` finest first -> logits finest first.

    In training it answers with logits of every resolution that has a head, in evaluation with the finest alone.
    With a dense-upsampling head the finest decoded feature, and the first of ``features``, is that of the second stage.
    With a CRF the image comes last among the features, ``[B, C, *S]``, before and after decoding.
    """

    def __init__(self, plan: Plan, channels: int, config: NetworkConfig, up: Upsampling = conv_transpose) -> None:
        super().__init__()
        dims, widths, strides = plan.dims, plan.widths, plan.strides
        self.built_from = plan, channels, config
        self.finest = 1 if config.head == "dense_upsampling" else 0  # stage that is decoded last
        self.stages = nn.ModuleList(
            Up(dims, widths[i + 1], widths[i], strides[i + 1], config, up)
            for i in reversed(range(self.finest, len(widths) - 1))
        )
        # The two coarsest grids carry too few voxels to be worth a loss of their own.
        heads = max(len(widths) - 2, 1) if config.deep_supervision else 1
        coarser = (conv(dims, width, channels, kernel=1) for width in widths[1:heads])
        self.heads = nn.ModuleList([self.head(channels), *coarser])
        self.crf = CRF(channels, plan.spacing) if config.crf else None

    def head(self, channels: int) -> nn.Module:
        """A new head of full resolution on the finest decoded feature: ``features(...)[0] -> [B, channels, *S]``."""
        plan, _, _ = self.built_from
        if self.finest:
            return DenseUpsampling(plan.dims, plan.widths[1], channels, plan.strides[1])
        return conv(plan.dims, plan.widths[0], channels, kernel=1)

    def features(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """Decoded features ``[B, width_i, *S_i]``, finest first."""
        image = skips[-1:] if self.crf else []
        *skips, x = skips[: len(skips) - len(image)]
        features = [x]  # of use to a head only where there is a single stage
        for stage in self.stages:
            x = stage(x, skips.pop())
            features.append(x)
        return [*features[::-1], *image]

    def logits(self, features: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """What ``forward`` answers, from the decoded features."""
        finest = self.heads[0](features[0])
        if self.crf:
            finest = self.crf(finest, features[-1])
        if not self.training:
            return finest
        coarser = zip(self.heads[1:], features[1 - self.finest :], strict=False)
        return [finest, *(head(feature) for head, feature in coarser)]

    def forward(self, skips: Sequence[Tensor]) -> Tensor | list[Tensor]:
        return self.logits(self.features(skips))

    def another(self, up: Upsampling) -> Decoder:
        """A decoder of the same features that up-samples by ``up``, with other random weights."""
        return Decoder(*self.built_from, up)


class UNet(nn.Module):
    """boxes: with ``network.boxes``, finds the structures first; the encoder sees their boxes beside the image.

    Raises InputError where a patch has more voxels than a block takes that joins every one with every other.
    """

    stage: ClassVar[type[nn.Module]] = Residual
    finest: ClassVar[type[nn.Module]] = Residual  # of full resolution
    takes_missing: ClassVar[bool] = False
    decoder_kind: ClassVar[type[Decoder]] = Decoder
    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)

    def __init__(self, plan: Plan, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.image_channels = len(plan.channels)
        dims, widths = plan.dims, plan.widths
        refuse_pool(config.attention)
        self.boxes = BoxNetwork(plan) if config.boxes else None
        stages = self.stages(plan, len(plan.classes) if config.boxes else 0)
        self.encoder = nn.ModuleList(
            nn.Sequential(stage, build_attention("encoder", config.attention.encoder, width, dims))
            for stage, width in zip(stages, widths, strict=True)
        )
        self.bottleneck = build_attention("bottleneck", config.attention.bottleneck, widths[-1], dims)
        self.decoder = self.decoder_kind(plan, channels, config)
        check_slots(config.attention, plan, self.decoder.finest)

    @classmethod
    def stages(cls, plan: Plan, boxes: int = 0) -> Iterator[nn.Module]:
        """The stages of the encoder, finest first: ``[B, width_i-1, *S] -> [B, width_i, *S / stride_i]``.

        That of full resolution is a residual block, unless it is the only one: other kinds cost most where they see
        least. boxes: drawn ones, which come behind the channels of the image.
        """
        inputs = [len(plan.channels) + boxes, *plan.widths[:-1]]
        for depth, (i, o, stride) in enumerate(zip(inputs, plan.widths, plan.strides, strict=True)):
            yield (cls.stage if depth or len(plan.widths) == 1 else cls.finest)(plan.dims, i, o, stride)

    def encode(self, x: Tensor, boxes: Tensor | None = None) -> list[Tensor]:
        """Features of every stage, finest first: ``[B, width_i, *S / strides up to i]``; x itself last for a CRF.

        boxes: what the box network says of x, for a caller that has asked it already.
        """
        # A missing modality looks the same everywhere to the CRF, which is to say nothing.
        features, image = [], [without_absent(x)] if self.decoder.crf else []
        if self.boxes:
            boxes = self.boxes(x) if boxes is None else boxes
            x = torch.cat([x, self.boxes.draw(boxes, x.shape[2:]).to(x.dtype)], dim=1)
        for stage in self.encoder:
            x = stage(x)
            features.append(x)
        return [*features[:-1], self.bottleneck(x), *image]

    def restorer(self) -> nn.Module:
        """What ``restore`` answers with: a head that is no part of the network, for pre-training."""
        return self.decoder.head(self.image_channels)

    def restore(self, x: Tensor, restorer: nn.Module) -> Tensor:
        """Images ``[B, C, *S]`` from the finest decoded features of x."""
        image: Tensor = restorer(self.decoder.features(self.encode(x))[0])
        return image

    def forward(self, x: Tensor, perturb: Callable[[Tensor], Tensor] | None = None) -> Tensor | list[Tensor]:
        features = self.encode(x)
        return self.decoder(features if perturb is None else [perturb(feature) for feature in features])


def refuse_pool(slots: AttentionSlots) -> None:
    """Raises InputError where a network that answers voxel by voxel is told how to pool."""
    if slots.pool != AttentionSlots().pool:
        fix = "Leave it out: classifier and attention_cnn pool, which answer for a whole image."
        raise refuse("configuration", "network.attention.pool", slots.pool, "a network that pools", fix)


def check_slots(slots: AttentionSlots, plan: Plan, finest: int = 0) -> None:
    """Raise InputError where a patch has too many voxels for a block, and for the name of a block that is none, even
    if its slot has no place in such a network. finest: the decoder's last stage."""
    stages = {"encoder": 0, "bottleneck": -1, "skip": finest, "decoder": finest}
    for slot, stage in stages.items():
        name = getattr(slots, slot)
        limit = getattr(find_block(slot, name), "max_tokens", None)
        built = stage < len(plan.widths) - 1 or slot == "encoder"
        if limit is not None and name in ATTENTION and built:
            check_stage(f"network.attention.{slot}", name, plan, stage, limit)


def check_stage(where: str, block: str, plan: Plan, stage: int, limit: int) -> None:
    """Raise InputError where the features of a patch have more than ``limit`` voxels at ``stage``."""
    stride = list(itertools.accumulate(map(math.prod, plan.strides), operator.mul))[stage]
    check_tokens(where, block, math.prod(plan.patch) // stride, limit)


def find_block(slot: str, name: str) -> Any:
    """The block of that name, that of a ``matched:`` convolution, or None; raises InputError when it is unknown."""
    if name == "none":
        return None
    matched = name.removeprefix(PREFIX)
    if matched not in ATTENTION:
        raise refuse(
            "configuration",
            f"network.attention.{slot}",
            name,
            f"none or one of {', '.join(ATTENTION)}",
            closest(matched, ATTENTION),
        )
    return ATTENTION[matched]


def build_attention(slot: str, name: str, channels: int, dims: int, inputs: tuple[int, ...] = (1,)) -> nn.Module:
    """The block for a slot; raises InputError when the name is unknown or the slot cannot feed it."""
    if (block := find_block(slot, name)) is None:
        return nn.Identity()
    if name not in ATTENTION:
        return MatchedConvolution(channels, dims, parameters_of(block(channels, dims)))
    needed = getattr(block, "inputs", 1)
    if needed not in inputs:
        raise refuse(
            "configuration",
            f"network.attention.{slot}",
            f"{name}, which joins {needed} features",
            f"a block for {inputs[0]}",
            "Put it into the slot skip, where two features meet.",
        )
    return block(channels, dims)
