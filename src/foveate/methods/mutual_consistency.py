"""Mutual consistency: three decoders that up-sample differently learn each other's sharpened answers.

Source: Wu et al., "Mutual consistency learning for semi-supervised medical image segmentation" (MC-Net+), Medical
Image Analysis 2022. Departures: no gradient flows into a sharpened answer; one convolution a decoder stage, as
the network has; the other decoders start with the unlabelled images, and all that they add has the ramped weight of
the unlabelled loss, so that its weight 0 is the baseline; the model is the network with its own decoder.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.batches.sampler import Batch
from foveate.config import MethodConfig
from foveate.layers import resize_linear, resize_nearest
from foveate.methods.method import TEACHING, Builder, Method, divide, weighted
from foveate.tasks import Segmentation

TEMPERATURE = 0.1  # of the sharpening, as published


class MutualConsistency(Method):
    """The network's decoder up-samples by transposed convolution, the others linearly and by repetition. All are
    trained with the encoder, by one optimiser."""

    strong_views: ClassVar[int] = 1
    options: ClassVar[tuple[str, ...]] = TEACHING

    def __init__(
        self, network: nn.Module, task: Segmentation, config: MethodConfig, decay: float, build: Builder | None = None
    ) -> None:
        super().__init__(network, task, config, decay, build)
        own: Any = network.decoder
        self.others = nn.ModuleDict({"linear": own.another(resize_linear), "nearest": own.another(resize_nearest)})

    def players(self) -> dict[str, nn.Module]:
        return {"network": nn.ModuleList([self.network, self.others])}

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        network: Any = self.network
        features = network.encode(torch.cat([batch.images, batch.strong[0]]))
        decoders = {"": network.decoder, **self.others}
        target = self.task.encode(batch.labels)
        losses: dict[str, Tensor] = {}
        answers = []
        for name, decoder in decoders.items():
            known, guessed = divide(decoder(features), len(batch.images))
            answers.append(torch.cat([known[0], guessed[0]]))
            learnt = self.task.loss(known, target)
            losses |= weighted(learnt, weight, name) if name else learnt
        return losses | weighted({"consistency": self.disagreement(answers)}, weight)

    def disagreement(self, answers: list[Tensor]) -> Tensor:
        """Sum over ordered pairs of the mean of (p_i - sharpened p_j)^2; answers: logits ``[B, K, *S]`` each.

        p^(1/T) / sum p^(1/T) is the softmax of logits / T, and the sigmoid where regions overlap.
        """
        values = [self.task.probabilities(logits) for logits in answers]
        sharpened = [self.task.probabilities(logits.detach().float() / TEMPERATURE) for logits in answers]
        pairs = itertools.permutations(range(len(answers)), 2)
        return torch.stack([(values[i] - sharpened[j]).square().mean() for i, j in pairs]).sum()
