"""Cross pseudo supervision: two networks of one architecture, each learns the other's hard answer.

Source: Chen et al., "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision", CVPR 2021. Departures: the
task's own loss (soft Dice and cross-entropy) in place of cross-entropy alone; the networks teach each other on
unlabelled images alone, because a labelled image has a better teacher; that counts as much as the labels, not 1.5 to 6
times; the model is the average of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from foveate.batches.sampler import Batch
from foveate.config import MethodConfig
from foveate.methods.method import ANY_TASK, BOXES, Builder, Method, Turn, divide, weighted
from foveate.tasks import Task


class CrossPseudo(Method):
    """Two players. Unlabelled images are seen as labelled ones are, with changes of intensity; both networks see the
    same view. The second learns the labelled images from the first step on, the unlabelled ones from ``start`` on."""

    strong_views: ClassVar[int] = 1
    tasks: ClassVar[tuple[str, ...]] = (*ANY_TASK, BOXES)

    def __init__(self, network: nn.Module, task: Task, config: MethodConfig, decay: float, build: Builder) -> None:
        super().__init__(network, task, config, decay, build)
        self.second = self.other(build)

    def other(self, build: Builder) -> nn.Module:
        """The second network: as the first, with other random weights."""
        return build()

    def players(self) -> dict[str, nn.Module]:
        return {"network": self.network, "second": self.second}

    def turns(self, batch: Batch, progress: float) -> Iterator[Turn]:
        weight = self.weight(progress)
        views = batch.strong[:1] if len(batch.weak) and weight else []
        images = torch.cat([batch.images, *views])
        # Both answer before either steps: each teaches as it is, as in the paper's one loss for two networks.
        first = divide(self.network(images), len(batch.images))
        second = divide(self.second(images), len(batch.images))
        teaches = weight if views else 0.0
        yield "network", self.learns(batch, first, second[1], teaches)
        yield "second", weighted(self.learns(batch, second, first[1], teaches), 1.0, "second")

    def learns(
        self, batch: Batch, answers: tuple[list[Tensor], list[Tensor]], teacher: list[Tensor], weight: float
    ) -> dict[str, Tensor]:
        """Losses of one network. answers: its logits of labelled and of unlabelled images; teacher: the other's logits
        of the unlabelled ones."""
        known, guessed = answers
        losses = self.task.loss(known, self.task.encode(batch.labels))
        if weight:
            pseudo = self.task.harden(self.task.pseudo_label(teacher[0].detach(), self.sureness))
            losses |= weighted(self.task.loss(guessed, pseudo), weight)
        return losses
