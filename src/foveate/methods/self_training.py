"""Self-training: the averaged network labels whole unlabelled scans, and the student learns these labels as its own.

Sources: Lee, "Pseudo-Label", ICML workshop 2013; Xie et al., "Self-training with Noisy Student", CVPR 2020; Yang et
al., "ST++", CVPR 2022.
Departures: one run in place of several trainings: the same student goes on, with its learning rate, after each
labelling; the teacher is its average, asked for several rotated and zoomed views of every scan that a patch holds;
unlabelled images take a share of every batch; what a label has apart from a structure's largest piece teaches nothing,
where the labelled scans show the structure in one. So a step costs what a supervised one costs, and labelling a few per
cent of the time.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foveate.batches.sampler import Batch
from foveate.methods.method import ANY_TASK, Method


class SelfTraining(Method):
    strong_views: ClassVar[int] = 1
    labellings: ClassVar[int] = 2
    reason: ClassVar[str] = "averages answers over turned views"
    tasks: ClassVar[tuple[str, ...]] = ANY_TASK
    start = 0.3  # a teacher that has seen less makes labels that are not worth learning

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        assert batch.pseudo is not None
        target = self.task.encode(torch.cat([batch.labels, batch.pseudo]))
        target.weight[len(batch.labels) :] *= weight
        return self.task.loss(self.network(torch.cat([batch.images, batch.strong[0]])), target)
