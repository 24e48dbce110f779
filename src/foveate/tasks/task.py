"""What every task is: from labels to targets, from outputs to losses, probabilities, pseudo-labels and answers.

A method knows a task by these words alone, so that it is written once. S below is the shape of the answer: a voxel
each for segmentation, nothing at all for an answer that holds for the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.cohort.plan import Plan


@dataclass
class Target:
    """What a network should answer: values ``[B, K, *S]`` probabilities; weight ``[B, 1, *S]``, 0 = no teaching."""

    values: Tensor
    weight: Tensor

    def mix(self, other: Target, mask: Tensor) -> Target:
        """This target where ``mask [B, 1, *S]`` is true, ``other`` elsewhere."""
        return Target(torch.where(mask, self.values, other.values), torch.where(mask, self.weight, other.weight))

    def blend(self, other: Target, share: float) -> Target:
        """``share`` of this target and the rest of ``other``, as mixup blends images; teaches where both teach."""
        return Target(share * self.values + (1 - share) * other.values, self.weight * other.weight)


class Task:
    """Head, loss, pseudo-label and metric of the classes of a plan.

    name: as in TASKS. metric: what ``score`` is called in a log; better: the sign of an improvement.
    confidence: from which a pseudo-label teaches, whatever the method, where the task's is no probability; else None.
    channels: of the logits. exclusive: channels exclude each other (a softmax), or each is a yes or no (a sigmoid).
    """

    name: ClassVar[str]
    confidence: ClassVar[float | None] = None
    channels: int
    exclusive: bool

    def __init__(self, plan: Plan) -> None:
        self.classes = plan.classes

    # Labels

    def encode(self, labels: Tensor) -> Target:
        """Labels as a batch holds them -> Target; what is unknown has weight 0."""
        raise NotImplementedError

    def example(self, count: int, plan: Plan) -> Tensor:
        """Labels such as a batch of ``count`` images holds, to measure a step with."""
        raise NotImplementedError

    def known(self, target: Target) -> Tensor:
        """How much each channel of a target may teach at each voxel: its weight ``[B, 1, *S]``, the same for all."""
        return target.weight

    def taught(self, target: Target) -> Target:
        """The same with the weights of ``known``, and values that hold where a voxel is known in part."""
        return target

    # Losses

    def loss(self, outputs: Tensor | list[Tensor], target: Target) -> dict[str, Tensor]:
        """The task's own loss, averaged over resolutions with weights 1, 1/2, 1/4, ...

        outputs: logits ``[B, K, *S]``, or a list of them, finest first; coarser ones see the target averaged
        over their voxels. Returns named terms; their sum is the loss.
        """
        return over_resolutions(outputs, target, self._loss_at)

    def squared_error(self, outputs: Tensor | list[Tensor], target: Target) -> dict[str, Tensor]:
        """Mean over channels and taught voxels of (probability - target)^2, averaged over resolutions as ``loss`` is.

        Bounded, so that one wrong target cannot pull as cross-entropy does. The gradient also flows into a target that
        has one.
        """
        return over_resolutions(outputs, target, self._squared_error_at)

    def entropy_loss(self, outputs: Tensor | list[Tensor]) -> dict[str, Tensor]:
        """Mean normalised entropy of predictions, averaged over resolutions as ``loss`` is; no target is needed."""
        outputs = outputs if isinstance(outputs, list) else [outputs]
        means = [self.entropy(self.probabilities(logits)).mean() for logits in outputs]
        parts = [share * mean for share, mean in zip(shares(len(outputs)), means, strict=True)]
        return {"entropy": torch.stack(parts).sum()}

    def cross_entropy(self, logits: Tensor, values: Tensor) -> Tensor:
        """Of float32 logits against target values, both ``[B, K, *S]``, at every voxel: ``[B, 1, *S]``."""
        if self.exclusive:
            return -(values * logits.log_softmax(1)).sum(1, keepdim=True)
        return F.binary_cross_entropy_with_logits(logits, values, reduction="none").mean(1, keepdim=True)

    def _loss_at(self, logits: Tensor, target: Target) -> dict[str, Tensor]:
        raise NotImplementedError

    def _squared_error_at(self, logits: Tensor, target: Target) -> dict[str, Tensor]:
        taught = self.taught(target)
        error = (self.probabilities(logits) - taught.values).square() * taught.weight
        return {"mse": error.mean(1).sum() / target.weight.sum().clamp_min(1)}

    # Answers

    def probabilities(self, logits: Tensor) -> Tensor:
        """``[B, K, *S]`` in [0, 1]; over classes they sum to one, of channels that are yes or no they need not."""
        return logits.float().softmax(1) if self.exclusive else logits.float().sigmoid()

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Log-probability of all that may be the case at a voxel, in float32: of each class ``[B, K, *S]``; of each
        region and of its absence ``[B, 2 K, *S]``. So a divergence is a sum over channels, whatever the classes."""
        logits = logits.float()
        return logits.log_softmax(1) if self.exclusive else F.logsigmoid(torch.cat([logits, -logits], dim=1))

    def pseudo_label(self, logits: Tensor, confidence: float = 0.0) -> Target:
        """A teacher's answer as a target: its probabilities, with weight 1 where it is sure to ``confidence``."""
        values = self.probabilities(logits)
        return Target(values, (self.sureness(values) >= confidence).float())

    def sureness(self, values: Tensor) -> Tensor:
        """Probability of the likeliest answer, of probabilities ``[B, K, *S]``: ``[B, 1, *S]``."""
        return (
            values.amax(1, keepdim=True) if self.exclusive else torch.maximum(values, 1 - values).amin(1, keepdim=True)
        )

    def entropy(self, values: Tensor) -> Tensor:
        """Entropy of probabilities ``[B, K, *S]`` as a share of the largest possible, in [0, 1]: ``[B, 1, *S]``.

        Over classes -sum p log p / log K; over regions the mean of each region's own yes-or-no entropy / log 2.
        """
        # The slope of p log p is infinite at 0, where a softmax that underflows ends: nothing is gained by going there.
        kept = values.clamp_min(1e-7)
        if not self.exclusive:
            both = torch.special.entr(kept) + torch.special.entr((1 - values).clamp_min(1e-7))
            return both.mean(1, keepdim=True) / math.log(2)
        return torch.special.entr(kept).sum(1, keepdim=True) / math.log(self.channels)

    def harden(self, target: Target) -> Target:
        """The same target decided: 1 for the likeliest class and 0 for the others; regions each on their own side."""
        values = target.values
        if not self.exclusive:
            return Target((values > 0.5).to(values.dtype), target.weight)
        best = values.max(1, keepdim=True).indices
        return Target(torch.zeros_like(values).scatter_(1, best, 1.0), target.weight)

    # What a model keeps beside its weights

    def description(self) -> dict[str, Any]:
        """For model.json: the name, and what was fitted after training."""
        return {"name": self.name}

    def restore(self, description: Mapping[str, Any]) -> None:
        """Take over what ``description`` says. Raises ValueError when it is not that of such a task."""

    def fit(self, logits: np.ndarray, labels: np.ndarray) -> str:
        """Fit what turns answers into probabilities that are what they say, on cases that did not teach.

        logits ``[N, K]``, labels ``[N, K]``. Returns what whoever uses the model must know of it, "" for nothing; there
        is nothing to do for a task that has nothing of the kind.
        """
        return ""


def over_resolutions(
    outputs: Tensor | list[Tensor], target: Target, terms_at: Callable[[Tensor, Target], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Named terms averaged over resolutions, finest first; coarser ones see the target averaged over their voxels."""
    outputs = outputs if isinstance(outputs, list) else [outputs]
    terms: dict[str, Tensor] = {}
    for share, logits in zip(shares(len(outputs)), outputs, strict=True):
        if logits.shape[2:] != target.values.shape[2:]:
            target = _coarser(target, logits.shape[2:])
        for name, value in terms_at(logits.float(), target).items():
            terms[name] = terms.get(name, 0.0) + share * value
    return terms


def shares(resolutions: int) -> list[float]:
    """What each resolution counts, finest first: 1, 1/2, 1/4, ... over their sum."""
    return [0.5**i / (2 - 0.5 ** (resolutions - 1)) for i in range(resolutions)]


def _coarser(target: Target, size: torch.Size) -> Target:
    pool: Any = F.adaptive_avg_pool2d if len(size) == 2 else F.adaptive_avg_pool3d
    weight = pool(target.weight, size)
    values = pool(target.values * target.weight, size) / weight.clamp_min(1e-6)
    return Target(values, weight)
