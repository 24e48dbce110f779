"""Mean teacher: the averaged network labels weak views of unlabelled scans, the student learns them on strong views.

Source: Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017.
Departures: the consistency loss is the task's own loss against the teacher's probabilities (soft Dice and
cross-entropy) in place of the squared difference, because an overlap loss does not drown in background; the
teacher sees geometry alone and the student intensity changes on top (FixMatch, Sohn 2020), both through the same
geometry, so that voxels correspond; unlabelled images replace half of the labelled ones after ``start``, of whole
images three quarters, where an image has but one answer to learn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from foveate.batches.sampler import Batch
from foveate.methods.method import ANY_TASK, BOXES, Method, divide, weighted


class MeanTeacher(Method):
    strong_views: ClassVar[int] = 1
    unlabelled_shares: ClassVar[Mapping[str, float]] = {"classification": 0.75}
    tasks: ClassVar[tuple[str, ...]] = (*ANY_TASK, BOXES)

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        with torch.no_grad():
            pseudo = self.task.pseudo_label(self.average(batch.weak), self.sureness)
        outputs = self.network(torch.cat([batch.images, batch.strong[0]]))  # one pass: [L + U, K, *S] per resolution
        known, guessed = divide(outputs, len(batch.images))
        losses = self.task.loss(known, self.task.encode(batch.labels))
        return losses | weighted(self.task.loss(guessed, pseudo), weight)
