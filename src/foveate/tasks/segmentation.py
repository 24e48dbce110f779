"""Segmentation: one class per voxel (softmax), or overlapping regions (a sigmoid each)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from foveate.cohort.cohort import IGNORE
from foveate.cohort.plan import Plan
from foveate.tasks.task import Target, Task


class Segmentation(Task):
    """Head, loss, pseudo-label and metric of segmentation for the classes of a plan.

    ``channels`` logit maps: background and classes, or one per region. The loss is soft Dice and cross-entropy.
    one_piece: classes that the labels show in one piece, with their values; predictions keep the largest.
    """

    name: ClassVar[str] = "segmentation"

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.regions = plan.regions
        self.exclusive = not plan.regions
        self.spacing = plan.spacing  # mm per axis; pixels for pictures
        self.channels = len(plan.classes) + (0 if plan.regions else 1)
        self.names = [*([] if plan.regions else ["background"]), *plan.classes]  # of the channels
        self.one_piece: Mapping[str, int | tuple[int, ...]] = {}
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

    def encode(self, labels: Tensor) -> Target:
        """Label values ``[B, *S]`` uint8 -> Target; 255 is ignored."""
        index = labels.long()
        values = self.lookup.to(labels.device)[:, index].movedim(0, 1)  # [B, K, *S]
        return Target(values, (index != IGNORE)[:, None].float())

    def example(self, count: int, plan: Plan) -> Tensor:
        return torch.zeros(count, *plan.patch, dtype=torch.uint8)

    def _loss_at(self, logits: Tensor, target: Target) -> dict[str, Tensor]:
        entropy = (self.cross_entropy(logits, target.values) * target.weight).sum()
        taught = self.taught(target)
        overlap = soft_dice(self.probabilities(logits), taught.values, taught.weight, self.first)
        return {"dice": 1 - overlap.mean(), "ce": entropy / target.weight.sum().clamp_min(1)}

    def description(self) -> dict[str, Any]:
        return {"name": self.name, "one_piece": list(self.one_piece)}

    def restore(self, description: Mapping[str, Any]) -> None:
        names = description.get("one_piece", [])
        if not isinstance(names, list) or not set(names) <= set(self.classes):
            raise ValueError(f"one_piece {names}")
        self.one_piece = {name: self.classes[name] for name in names}

    @property
    def first(self) -> int:
        """First channel that is a structure, not background."""
        return 0 if self.regions else 1

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


def soft_dice(p: Tensor, t: Tensor, weight: Tensor, first: int = 0) -> Tensor:
    """Soft Dice per channel from ``first`` on, over the whole batch: 2 sum(w min(p, t)) / sum(w (p + t)).

    p, t: ``[B, K, *S]`` in [0, 1]; weight ``[B, 1, *S]``, or ``[B, K, *S]``, each channel's own -> ``[K - first]``.
    Over the batch rather than per image, so that a patch without the structure does not turn one false voxel into a
    Dice of zero. Source: Milletari 2016, without squares. For t of 0 or 1 the minimum is the product p t; for soft
    ones, such as a teacher's, the product is best not at p = t but at a p of 0 or 1 (Wang, "Dice Semimetric Losses",
    MICCAI 2023).
    """
    weight = weight[:, first:] if weight.shape[1] > 1 else weight
    p, t = p[:, first:] * weight, t[:, first:] * weight
    axes = (0, *range(2, p.ndim))
    return (2 * torch.minimum(p, t).sum(axes) + 1e-5) / (p.sum(axes) + t.sum(axes) + 1e-5)


def _own_values(members: list[tuple[int, ...]]) -> list[int]:
    own = []
    for values in members:
        inside = {v for other in members if set(other) < set(values) for v in other}
        own.append(next((v for v in values if v not in inside), values[0]))
    return own
