"""Temporal ensembling: the student learns, of each unlabelled scan, the mean of the answers that were given so far.

Source: Laine & Aila, "Temporal ensembling for semi-supervised learning", ICLR 2017, sec. 2.2: the squared difference to
Z / (1 - alpha^t), Z = alpha Z + (1 - alpha) z, alpha 0.6.
Departures: an answer is of a whole scan as it is, in a few rounds and not at every visit: patches that are turned and
bent do not return to the same voxels, while the mean of a scan is taken through the geometry of any patch. It is the
averaged network's, and there is no dropout; labelled images have no such loss; the weight is 10 (see pi_model).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foveate.batches.sampler import Batch
from foveate.methods.method import OF_CLASSES, Method, divide, weighted
from foveate.tasks import Target

WHOLE = 0.99  # what is read between voxels is known where all of them are


class TemporalEnsembling(Method):
    strong_views: ClassVar[int] = 1
    labellings: ClassVar[int] = 5
    memory: ClassVar[float | None] = 0.6
    unlabelled_weight = 10.0
    reason: ClassVar[str] = "remembers probabilities"
    tasks: ClassVar[tuple[str, ...]] = OF_CLASSES

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        assert batch.pseudo is not None
        outputs = self.network(torch.cat([batch.images, batch.strong[0]]))
        known, guessed = divide(outputs, len(batch.images))
        mean = Target(batch.pseudo[:, :-1], (batch.pseudo[:, -1:] > WHOLE).float())
        losses = self.task.loss(known, self.task.encode(batch.labels))
        return losses | weighted(self.task.squared_error(guessed, mean), weight)
