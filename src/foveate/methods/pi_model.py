"""Pi-model: the student sees two random views of each unlabelled image and is to answer the same for both.

Source: Laine & Aila, "Temporal ensembling for semi-supervised learning", ICLR 2017. As there, the loss is the squared
difference of the two predictions, and the gradient flows through both.
Departures: the views differ in intensity alone, through one geometry, so that voxels correspond, and there is no
dropout to differ by; labelled images are seen once and have no consistency loss; coarser heads learn the other view's
finest answer; the weight is 10, which 100 times the labelled share is where a tenth of the scans are labelled;
unlabelled images replace half of the labelled ones after ``start``, and a step costs 1.5 of the baseline. The paper's
other half is temporal_ensembling.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foveate.batches.sampler import Batch
from foveate.methods.method import ANY_TASK, Method, divide, weighted


class PiModel(Method):
    strong_views: ClassVar[int] = 2
    unlabelled_weight = 10.0
    reason: ClassVar[str] = "compares two answers number by number"
    tasks: ClassVar[tuple[str, ...]] = ANY_TASK

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        outputs = self.network(torch.cat([batch.images, *batch.strong]))  # [L + 2 U, K, *S] per resolution
        known, guessed = divide(outputs, len(batch.images))
        losses = self.task.loss(known, self.task.encode(batch.labels))
        others = guessed[0].roll(len(batch.weak), 0)  # first views beside second ones and the reverse
        consistency = self.task.squared_error(guessed, self.task.pseudo_label(others, self.sureness))
        return losses | weighted(consistency, weight)
