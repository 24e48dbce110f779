"""Adversarial: a critic tells labels from answers, and the network's unlabelled answers should look like labels to it.

Source: Hung et al., "Adversarial Learning for Semi-Supervised Semantic Segmentation", BMVC 2018, eq. 1-4. Departures:
the critic learns from the answers to unlabelled images, those that it judges; labelled images have their labels alone,
without an adversarial loss; no self-training on voxels that the critic trusts (eq. 5): pseudo-labels are what other
methods are for; the adversarial weight is 0.1 and ramps up; an ignored voxel is shown to the critic as the network's
own answer, without weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.batches.sampler import Batch
from foveate.config import MethodConfig
from foveate.methods.method import TEACHING, Builder, Method, Turn, divide, finest, weighted
from foveate.networks.critic import Critic
from foveate.tasks import Segmentation

ADVERSARIAL = 0.1  # weight of pleasing the critic


class Adversarial(Method):
    """Two players: the network, then the critic, which sees the answers of the network as it is after its step."""

    reason: ClassVar[str] = "has a critic that looks at label maps"

    strong_views: ClassVar[int] = 1
    critic_losses: ClassVar[tuple[str, ...]] = ("critic",)
    options: ClassVar[tuple[str, ...]] = TEACHING

    def __init__(
        self, network: nn.Module, task: Segmentation, config: MethodConfig, decay: float, build: Builder | None = None
    ) -> None:
        super().__init__(network, task, config, decay, build)
        self.critic = Critic(task.channels, len(task.spacing))

    def players(self) -> dict[str, nn.Module]:
        return {"network": self.network, "critic": self.critic}

    def turns(self, batch: Batch, progress: float) -> Iterator[Turn]:
        weight = self.weight(progress)
        if not (len(batch.weak) and weight):
            yield from super().turns(batch, progress)
            return
        outputs = self.network(torch.cat([batch.images, batch.strong[0]]))
        known, guessed = divide(outputs, len(batch.images))
        target = self.task.encode(batch.labels)
        self.critic.requires_grad_(False)  # the network's turn goes through the critic and leaves nothing there
        pleased = self.critic(self.task.probabilities(guessed[0]))
        self.critic.requires_grad_(True)
        losses = self.task.loss(known, target)
        yield "network", losses | weighted({"adversarial": ADVERSARIAL * mistaken(pleased, 1.0)}, weight)

        with torch.no_grad():
            answers = self.task.probabilities(finest(self.network(batch.strong[0])))
            labels = torch.where(self.task.known(target) > 0, target.values, self.task.probabilities(known[0]))
        judged = mistaken(self.critic(labels), 1.0, target.weight) + mistaken(self.critic(answers), 0.0)
        yield "critic", {"critic": judged}


def mistaken(logits: Tensor, truth: float, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of the critic's ``[B, 1, *S]`` against 1, a label, or 0, an answer; mean over voxels by weight."""
    logits = logits.float()
    weight = torch.ones_like(logits) if weight is None else weight
    entropy = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth), reduction="none")
    return (entropy * weight).sum() / weight.sum().clamp_min(1)
