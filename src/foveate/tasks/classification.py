"""Classification of whole images: classes that exclude each other (a softmax), or several at once (a sigmoid each).

Probabilities are calibrated by one temperature (see ``calibration``), also those of classes that do not exclude each
other, over all of their yes-or-no answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.cohort.plan import Plan
from foveate.tasks.calibration import FEWEST, HIGHEST, LOWEST, fit_temperature
from foveate.tasks.task import Target, Task


class Classification(Task):
    """Logits and targets ``[B, K]``, weight ``[B, 1]``; the loss is cross-entropy with the plan's class weights.

    temperature: logits are divided by it before they become the probabilities that people see. Training does not.
    """

    name: ClassVar[str] = "classification"

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.names = list(plan.classes)
        self.channels, self.exclusive = len(self.names), plan.exclusive
        self.class_weights = torch.tensor([plan.class_weights.get(name, 1.0) for name in self.names])
        self.temperature = 1.0

    def encode(self, labels: Tensor) -> Target:
        """Float ``[B, K]``; a row with NaN is unknown."""
        known = ~labels.isnan().any(1, keepdim=True)
        return Target(labels.float().nan_to_num(0.0), known.float())

    def example(self, count: int, plan: Plan) -> Tensor:
        return torch.eye(self.channels)[torch.arange(count) % self.channels]

    def _loss_at(self, logits: Tensor, target: Target) -> dict[str, Tensor]:
        weights = self.class_weights.to(logits.device)
        if self.exclusive:
            entropy = self.cross_entropy(logits, target.values * weights)
        else:
            entropy = F.binary_cross_entropy_with_logits(logits, target.values, pos_weight=weights, reduction="none")
            entropy = entropy.mean(1, keepdim=True)
        return {"ce": (entropy * target.weight).sum() / target.weight.sum().clamp_min(1)}

    def decode(self, logits: Tensor, sureness: float = 0.0) -> Tensor:
        """Pseudo-labels ``[B, K]`` as ``encode`` takes them: 0 or 1, NaN in rows less sure than ``sureness``."""
        answer = self.pseudo_label(logits, sureness)
        return self.harden(answer).values.masked_fill(answer.weight == 0, torch.nan)

    def answers(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities ``[N, K]`` after calibration, of logits ``[N, K]``."""
        return self.probabilities(torch.from_numpy(logits) / self.temperature).numpy()

    def chosen(self, answer: np.ndarray) -> tuple[str, ...]:
        """Classes of one answer ``[K]``: the likeliest, or all above a half."""
        if self.exclusive:
            return (self.names[int(answer.argmax())],)
        return tuple(name for name, p in zip(self.names, answer, strict=True) if p > 0.5)

    def score(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Macro F1 of logits against labels, both ``[N, K]``, over the classes that either shows, and accuracy: of
        cases, or where they may have several labels of each answer to a label, as ``foveate evaluate`` counts it."""
        predicted = self.harden(Target(self.probabilities(torch.from_numpy(logits)), torch.ones(1))).values.numpy()
        both, either = (predicted * labels).sum(0), (predicted + labels).sum(0)
        shown = either > 0
        macro = float((2 * both[shown] / either[shown]).mean()) if shown.any() else float("nan")
        right = predicted == labels
        return {"macro_f1": macro, "accuracy": float((right.all(1) if self.exclusive else right).mean())}

    def errors(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """``[N]``: how far the probability that is furthest off lies from what is true."""
        errors: np.ndarray = np.abs(self.answers(logits) - labels).max(axis=1)
        return errors

    def description(self) -> dict[str, Any]:
        return {"name": self.name, "temperature": self.temperature}

    def restore(self, description: Mapping[str, Any]) -> None:
        self.temperature = float(description.get("temperature", 1.0))
        if not LOWEST <= self.temperature <= HIGHEST:
            raise ValueError(f"temperature {self.temperature}")

    def fit(self, logits: np.ndarray, labels: np.ndarray) -> str:
        """The temperature for held-back cases, both ``[N, K]``, every case with weight 1: that is what probabilities
        claim. It stays 1 with too few cases, which is said."""
        found = fit_temperature(torch.from_numpy(logits), torch.from_numpy(labels), self.exclusive)
        if found is None:
            return (
                f"{len(logits)} labelled validation cases are too few to calibrate the probabilities, at least "
                f"{FEWEST} are needed: they stay as the network gives them."
            )
        self.temperature = round(found, 4)
        return ""
