"""Cross-consistency training (CCT): auxiliary decoders see perturbed features and learn the main decoder's answer.

Source: Ouali et al., "Semi-Supervised Semantic Segmentation with Cross-Consistency Training", CVPR 2020. As there: the
main decoder alone learns from labels, the auxiliary ones alone from unlabelled images, by the squared difference to
the main one's detached answer, which weighs 30, and the encoder learns from all of them. Only encoder and main decoder
are kept.
Departures: three auxiliary decoders (feature drop, feature noise, channel dropout) in place of thirty with seven kinds
of perturbation, because each costs half a network; every feature that a U-Net's decoder gets is perturbed, not
the deepest alone; until unlabelled images enter, the auxiliary decoders are kept equal to the main one, so that they
start from what it has learnt; the loss ramps up after ``start``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor, nn

from foveate.batches.sampler import Batch
from foveate.config import MethodConfig
from foveate.methods.method import Builder, Method, Turn, divide, randomness, weighted
from foveate.methods.perturb import channel_dropout, feature_drop, feature_noise
from foveate.tasks import Segmentation

Perturbation = Callable[[Tensor, Generator], Tensor]
PERTURBATIONS: dict[str, Perturbation] = {
    "feature drop": feature_drop,
    "feature noise": feature_noise,
    "dropout": channel_dropout,
}


class CrossConsistency(Method):
    unlabelled_weight = 30.0

    def __init__(
        self, network: nn.Module, task: Segmentation, config: MethodConfig, decay: float, build: Builder | None = None
    ) -> None:
        super().__init__(network, task, config, decay, build)
        self.crossed = Crossed(network, len(PERTURBATIONS))

    def players(self) -> dict[str, nn.Module]:
        return {"network": self.crossed}

    def turns(self, batch: Batch, progress: float) -> Iterator[Turn]:
        """As every method's, but through the player also while there are labelled images alone."""
        weight = self.weight(progress)
        if len(batch.weak) and weight:
            yield "network", self.losses(batch, weight)
        else:
            outputs, _ = self.crossed(batch.images)
            yield "network", self.task.loss(outputs, self.task.encode(batch.labels))
            self.crossed.align()

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        labelled, generator = len(batch.images), randomness(batch)
        changes = [_with(generator, change) for change in PERTURBATIONS.values()]
        outputs, others = self.crossed(torch.cat([batch.images, batch.weak]), labelled, changes)
        known, guessed = divide(outputs, labelled)
        losses = self.task.loss(known, self.task.encode(batch.labels))
        pseudo = self.task.pseudo_label(guessed[0].detach(), self.sureness)
        for name, answer in zip(PERTURBATIONS, others, strict=True):
            losses |= weighted(self.task.squared_error(answer, pseudo), weight / len(others), f"unlabelled {name}")
        return losses


class Crossed(nn.Module):
    """A network and auxiliary copies of its decoder: one module with one forward pass, as a player has to be."""

    def __init__(self, network: nn.Module, decoders: int) -> None:
        super().__init__()
        self.network = network
        self.auxiliary = nn.ModuleList(copy.deepcopy(network.get_submodule("decoder")) for _ in range(decoders))

    def forward(
        self, images: Tensor, first: int = 0, changes: Sequence[Callable[[Tensor], Tensor]] = ()
    ) -> tuple[Tensor | list[Tensor], list[Tensor | list[Tensor]]]:
        """The network's outputs for all ``images``, and per change those of an auxiliary decoder that sees the
        features of the images from ``first`` on, changed."""
        features: list[Tensor] = []

        def keep(feature: Tensor) -> Tensor:
            features.append(feature)
            return feature

        outputs = self.network(images, keep)
        decoders = zip(self.auxiliary, changes, strict=False)  # none without changes
        return outputs, [decoder([change(feature[first:]) for feature in features]) for decoder, change in decoders]

    def align(self) -> None:
        """Make the auxiliary decoders equal to the network's own."""
        main = self.network.get_submodule("decoder").state_dict()
        for decoder in self.auxiliary:
            decoder.load_state_dict(main)


def _with(generator: Generator, change: Perturbation) -> Callable[[Tensor], Tensor]:
    return lambda feature: change(feature, generator)
