"""Regression: one number for an image, with an interval.

Sources: Nix & Weigend, "Estimating the mean and variance of the target probability distribution", ICNN 1994 (the
Gaussian likelihood); Huber 1964; Papadopoulos et al., "Inductive Confidence Machines for Regression", ECML 2002, and
Lei et al., "Distribution-Free Predictive Inference for Regression", JASA 2018, sec. 5.2 (the interval is the answer
plus and minus a quantile of |error| / deviation on cases that did not teach). Departure: with fewer held-back cases
than that quantile needs, the interval is the model's own, 1.645 deviations; by the Huber loss there is none then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.cohort.plan import Plan
from foveate.tasks.calibration import interval_scale
from foveate.tasks.task import Target, Task

LEVEL = 0.9  # share of numbers that an interval is to hold
GAUSSIAN = 1.645  # deviations around the mean that hold this share
FLOAT_DIGITS = 17  # of a float64, that tell it from every other
LOWEST = -7.0  # log-variance, in the units of the standardised numbers: below, one case would outweigh all others


class Regression(Task):
    """Targets ``[B, 1]``, standardised by the plan. Outputs ``[B, 2]``: answer and log-variance (loss ``gaussian``), or
    ``[B, 1]`` (``huber``, which grows linearly beyond one deviation).

    factor: half the interval in deviations; NaN where no interval can be given.
    """

    name: ClassVar[str] = "regression"
    exclusive = False

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.gaussian = plan.loss == "gaussian"
        self.channels = 2 if self.gaussian else 1
        self.mean, self.std = plan.target_mean, plan.target_std
        self.factor = GAUSSIAN if self.gaussian else math.nan

    def encode(self, labels: Tensor) -> Target:
        """Float ``[B, 1]``; NaN is unknown."""
        return Target(labels.float().nan_to_num(0.0), (~labels.isnan()).float())

    def example(self, count: int, plan: Plan) -> Tensor:
        return torch.zeros(count, 1)

    def _loss_at(self, logits: Tensor, target: Target) -> dict[str, Tensor]:
        answer = self.probabilities(logits)
        if self.gaussian:
            spread = logits[:, 1:].clamp_min(LOWEST)
            error = 0.5 * ((answer - target.values).square() * (-spread).exp() + spread)
        else:
            error = F.huber_loss(answer, target.values, reduction="none")
        name = "nll" if self.gaussian else "huber"
        return {name: (error * target.weight).sum() / target.weight.sum().clamp_min(1)}

    def probabilities(self, logits: Tensor) -> Tensor:
        """The answer itself, standardised, ``[B, 1]``: what methods compare in place of probabilities."""
        return logits[:, :1].float()

    def sureness(self, values: Tensor) -> Tensor:
        """A number has no probability: it always counts as sure."""
        return torch.ones_like(values)

    def harden(self, target: Target) -> Target:
        return target

    def decode(self, logits: Tensor, sureness: float = 0.0) -> Tensor:
        """Pseudo-labels ``[B, 1]``."""
        return self.probabilities(logits)

    def answers(self, logits: np.ndarray) -> np.ndarray:
        """float64 ``[N, 3]``: number, low and high end of its interval, in the units of the labels."""
        value = self.mean + self.std * logits[:, :1].astype(np.float64)
        half = self.factor * self.deviations(logits)
        return np.concatenate([value, value - half, value + half], axis=1)

    def deviations(self, logits: np.ndarray) -> np.ndarray:
        """What the model takes its error to be, ``[N, 1]``, in the units of the labels; of the Huber loss that of the
        labels themselves."""
        logits = logits.astype(np.float64)
        spread = np.exp(0.5 * np.maximum(logits[:, 1:2], LOWEST)) if self.gaussian else np.ones_like(logits[:, :1])
        return self.std * spread

    def text(self, value: float, digits: int = 6) -> str:
        """A number in the units of the labels with so many digits, and more where it takes them to tell it from others
        that lie as near as the labels do: of labels about 1e6 that differ by ten the first five say nothing."""
        common = math.log10(abs(value) / self.std) if value else 0.0
        return f"{value:.{min(digits + max(0, math.ceil(common)), FLOAT_DIGITS)}g}"

    def score(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Mean absolute error in the units of the labels; labels ``[N, 1]`` are standardised."""
        return {"mae": float(self.errors(logits, labels).mean())}

    def errors(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """``[N]`` in the units of the labels."""
        errors: np.ndarray = self.std * np.abs(logits[:, 0] - labels[:, 0])
        return errors

    def description(self) -> dict[str, Any]:
        return {"name": self.name, "factor": None if math.isnan(self.factor) else self.factor, "level": LEVEL}

    def restore(self, description: Mapping[str, Any]) -> None:
        found = description.get("factor", self.factor)
        self.factor = math.nan if found is None else float(found)
        if self.factor < 0:
            raise ValueError(f"factor {self.factor}")

    def fit(self, logits: np.ndarray, labels: np.ndarray) -> str:
        """The factor that makes intervals hold LEVEL of new cases, from held-back ones; with too few of them it stays,
        which is said."""
        errors = (labels - logits[:, :1]) * self.std / self.deviations(logits)
        found = interval_scale(torch.from_numpy(errors), LEVEL)
        if not math.isfinite(found):
            own = "as wide as the network itself says, which may be far too narrow" if self.gaussian else "not given"
            return f"{len(logits)} labelled validation cases are too few for intervals of {LEVEL:.0%}: they are {own}."
        self.factor = round(found, 4)
        return ""
