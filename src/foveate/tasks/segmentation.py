"""Segmentation: one class per voxel (softmax), or overlapping regions (a sigmoid each)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.cohort.cohort import IGNORE
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


class Segmentation:
    """Head, loss, pseudo-label and metric of segmentation for the classes of a plan.

    ``channels`` logit maps: background and classes, or one per region.
    """

    def __init__(self, plan: Plan) -> None:
        self.classes = plan.classes
        self.regions = plan.regions
        self.spacing = plan.spacing  # mm per axis; pixels for pictures
        self.channels = len(plan.classes) + (0 if plan.regions else 1)
        members = [v if isinstance(v, tuple) else (v,) for v in plan.classes.values()]
        # lookup[k, v] = 1 where label value v belongs to channel k; the ignored value belongs to none.
        lookup = torch.zeros(self.channels, 256)
        first = 0 if plan.regions else 1
        for k, values in enumerate(members):
            lookup[k + first, list(values)] = 1
        if not plan.regions:
            lookup[0] = 1 - lookup.amax(0)
        lookup[:, IGNORE] = 0
        self.lookup = lookup
        # Label value that a channel is written as. A region writes its smallest-set value: the value that no
        # smaller region inside it also has, so that nested regions decode to the labels they came from.
        self.values = torch.tensor(([] if plan.regions else [0]) + _own_values(members), dtype=torch.uint8)
        # A region is painted over those that contain it, in whatever order the classes are declared.
        self.painting = sorted(range(len(members)), key=lambda k: -len(set(members[k])))

    def known(self, target: Target) -> Tensor:
        """How much each channel of a target may teach at each voxel: its weight ``[B, 1, *S]``, the same for all."""
        return target.weight

    def encode(self, labels: Tensor) -> Target:
        """Label values ``[B, *S]`` uint8 -> Target; 255 is ignored."""
        index = labels.long()
        values = self.lookup.to(labels.device)[:, index].movedim(0, 1)  # [B, K, *S]
        return Target(values, (index != IGNORE)[:, None].float())

    def loss(self, outputs: Tensor | list[Tensor], target: Target) -> dict[str, Tensor]:
        """Soft Dice and cross-entropy, averaged over resolutions with weights 1, 1/2, 1/4, ...

        outputs: logits ``[B, K, *S]``, or a list of them, finest first; coarser ones see the target averaged
        over their voxels. Returns named terms; their sum is the loss.
        """
        return _over_resolutions(outputs, target, self._loss_at)

    def squared_error(self, outputs: Tensor | list[Tensor], target: Target) -> dict[str, Tensor]:
        """Mean over channels and taught voxels of (probability - target)^2, averaged over resolutions as ``loss`` is.

        Bounded, so that one wrong target cannot pull as cross-entropy does. The gradient also flows into a target that
        has one.
        """
        return _over_resolutions(outputs, target, self._squared_error_at)

    def entropy_loss(self, outputs: Tensor | list[Tensor]) -> dict[str, Tensor]:
        """Mean normalised entropy of predictions, averaged over resolutions as ``loss`` is; no target is needed."""
        outputs = outputs if isinstance(outputs, list) else [outputs]
        shares = _shares(len(outputs))
        means = [self.entropy(self.probabilities(logits)).mean() for logits in outputs]
        return {"entropy": torch.stack([share * mean for share, mean in zip(shares, means, strict=True)]).sum()}

    def _loss_at(self, logits: Tensor, target: Target) -> dict[str, Tensor]:
        entropy = (self.cross_entropy(logits, target.values) * target.weight).sum()
        overlap = soft_dice(self.probabilities(logits), target.values, self.known(target), self.first)
        return {"dice": 1 - overlap.mean(), "ce": entropy / target.weight.sum().clamp_min(1)}

    def cross_entropy(self, logits: Tensor, values: Tensor) -> Tensor:
        """Of float32 logits against target values, both ``[B, K, *S]``, at every voxel: ``[B, 1, *S]``."""
        if self.regions:
            return F.binary_cross_entropy_with_logits(logits, values, reduction="none").mean(1, keepdim=True)
        return -(values * logits.log_softmax(1)).sum(1, keepdim=True)

    def _squared_error_at(self, logits: Tensor, target: Target) -> dict[str, Tensor]:
        error = (self.probabilities(logits) - target.values).square() * self.known(target)
        return {"mse": error.mean(1).sum() / target.weight.sum().clamp_min(1)}

    @property
    def first(self) -> int:
        """First channel that is a structure, not background."""
        return 0 if self.regions else 1

    def probabilities(self, logits: Tensor) -> Tensor:
        """``[B, K, *S]`` in [0, 1]; over classes they sum to one, over regions they need not."""
        return logits.float().sigmoid() if self.regions else logits.float().softmax(1)

    def pseudo_label(self, logits: Tensor, confidence: float = 0.0) -> Target:
        """A teacher's answer as a target: its probabilities, with weight 1 where it is sure to ``confidence``."""
        values = self.probabilities(logits)
        return Target(values, (self.sureness(values) >= confidence).float())

    def sureness(self, values: Tensor) -> Tensor:
        """Probability of the likeliest answer, of probabilities ``[B, K, *S]``: ``[B, 1, *S]``."""
        return torch.maximum(values, 1 - values).amin(1, keepdim=True) if self.regions else values.amax(1, keepdim=True)

    def entropy(self, values: Tensor) -> Tensor:
        """Entropy of probabilities ``[B, K, *S]`` as a share of the largest possible, in [0, 1]: ``[B, 1, *S]``.

        Over classes -sum p log p / log K; over regions the mean of each region's own yes-or-no entropy / log 2.
        """
        # The slope of p log p is infinite at 0, where a softmax that underflows ends: nothing is gained by going there.
        kept = values.clamp_min(1e-7)
        if self.regions:
            both = torch.special.entr(kept) + torch.special.entr((1 - values).clamp_min(1e-7))
            return both.mean(1, keepdim=True) / math.log(2)
        return torch.special.entr(kept).sum(1, keepdim=True) / math.log(self.channels)

    def harden(self, target: Target) -> Target:
        """The same target decided: 1 for the likeliest class and 0 for the others; regions each on their own side."""
        values = target.values
        if self.regions:
            return Target((values > 0.5).to(values.dtype), target.weight)
        best = values.max(1, keepdim=True).indices
        return Target(torch.zeros_like(values).scatter_(1, best, 1.0), target.weight)

    def decode(self, logits: Tensor, sureness: float = 0.0) -> Tensor:
        """Label values ``[B, *S]`` uint8: the best class, or regions painted from the largest set of values on.

        255, which teaches nothing, is written where the answer is less sure than ``sureness``.
        """
        values = self.values.to(logits.device)
        if self.regions:
            labels = torch.zeros(logits.shape[0], *logits.shape[2:], dtype=torch.uint8, device=logits.device)
            for k in self.painting:
                labels = torch.where(logits[:, k] > 0, values[k], labels)
        else:
            labels = values[self.likeliest(logits)]
        if sureness:
            labels[self.pseudo_label(logits, sureness).weight[:, 0] == 0] = IGNORE
        return labels

    def likeliest(self, logits: Tensor) -> Tensor:
        """The channel of the likeliest class ``[B, *S]``; not for regions."""
        return logits.max(1).indices  # several times as fast as argmax on a CPU

    def score(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """Hard Dice per class ``[len(classes)]`` over a batch of label maps ``[B, *S]``; NaN where both lack it."""
        known = labels != IGNORE
        a = self.encode(predicted).values[:, self.first :].bool() & known[:, None]
        b = self.encode(labels).values[:, self.first :].bool() & known[:, None]
        axes = (0, *range(2, a.ndim))
        return 2 * (a & b).sum(axes) / (a.sum(axes) + b.sum(axes))

    def mean_dice(self, predicted: np.ndarray, labels: np.ndarray) -> float:
        """Mean hard Dice over the classes that either label map ``[*S]`` shows; NaN when neither shows any."""
        return float(self.score(torch.from_numpy(predicted)[None], torch.from_numpy(labels)[None]).nanmean())

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Log-probability of all that may be the case at a voxel, in float32: of each class ``[B, K, *S]``; of each
        region and of its absence ``[B, 2 K, *S]``. So a divergence is a sum over channels, whatever the classes."""
        logits = logits.float()
        return F.logsigmoid(torch.cat([logits, -logits], dim=1)) if self.regions else logits.log_softmax(1)


def soft_dice(p: Tensor, t: Tensor, weight: Tensor, first: int = 0) -> Tensor:
    """Soft Dice per channel from ``first`` on, over the whole batch: 2 sum(w p t) / sum(w (p + t)), ``[K - first]``.

    p, t: ``[B, K, *S]`` in [0, 1]; weight ``[B, 1, *S]``, or ``[B, K, *S]``, each channel's own. Over the batch rather
    than per image, so that a patch without the structure does not turn one false voxel into a Dice of zero.
    Source: Milletari 2016, without squares.
    """
    weight = weight[:, first:] if weight.shape[1] > 1 else weight
    p, t = p[:, first:] * weight, t[:, first:]
    axes = (0, *range(2, p.ndim))
    return (2 * (p * t).sum(axes) + 1e-5) / (p.sum(axes) + (t * weight).sum(axes) + 1e-5)


def _over_resolutions(
    outputs: Tensor | list[Tensor], target: Target, terms_at: Callable[[Tensor, Target], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Named terms averaged over resolutions, finest first; coarser ones see the target averaged over their voxels."""
    outputs = outputs if isinstance(outputs, list) else [outputs]
    terms: dict[str, Tensor] = {}
    for share, logits in zip(_shares(len(outputs)), outputs, strict=True):
        if logits.shape[2:] != target.values.shape[2:]:
            target = _coarser(target, logits.shape[2:])
        for name, value in terms_at(logits.float(), target).items():
            terms[name] = terms.get(name, 0.0) + share * value
    return terms


def _shares(resolutions: int) -> list[float]:
    """What each resolution counts, finest first: 1, 1/2, 1/4, ... over their sum."""
    return [0.5**i / (2 - 0.5 ** (resolutions - 1)) for i in range(resolutions)]


def _coarser(target: Target, size: torch.Size) -> Target:
    pool: Any = F.adaptive_avg_pool2d if len(size) == 2 else F.adaptive_avg_pool3d
    weight = pool(target.weight, size)
    values = pool(target.values * target.weight, size) / weight.clamp_min(1e-6)
    return Target(values, weight)


def _own_values(members: list[tuple[int, ...]]) -> list[int]:
    own = []
    for values in members:
        inside = {v for other in members if set(other) < set(values) for v in other}
        own.append(next((v for v in values if v not in inside), values[0]))
    return own
