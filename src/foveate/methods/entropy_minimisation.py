"""Entropy minimisation: the student is asked to be sure of every voxel of an unlabelled scan.

Source: Grandvalet & Bengio, "Semi-supervised learning by entropy minimization", NeurIPS 2004.
Departures: the entropy is divided by its largest value (log K; log 2 for a region), so that its weight means the same
for any number of classes; it is the mean over voxels, at every resolution that has a head; its weight ramps up after
``start`` in place of being annealed or searched for, because certainty about a random network's answers is worth
nothing. ``confidence`` has no say: there is no pseudo-label.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foveate.batches.sampler import Batch
from foveate.methods.method import OF_CLASSES, TEACHING, Method, divide, weighted


class EntropyMinimisation(Method):
    tasks: ClassVar[tuple[str, ...]] = OF_CLASSES
    reason: ClassVar[str] = "lowers the entropy of classes, and a number has none"
    options: ClassVar[tuple[str, ...]] = TEACHING

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        outputs = self.network(torch.cat([batch.images, batch.weak]))
        known, guessed = divide(outputs, len(batch.images))
        losses = self.task.loss(known, self.task.encode(batch.labels))
        return losses | weighted(self.task.entropy_loss(guessed), weight)
