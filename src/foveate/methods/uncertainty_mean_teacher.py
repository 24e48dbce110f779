"""Uncertainty-aware mean teacher (UA-MT): the student learns from the teacher only where the teacher is of one mind.

Source: Yu et al., "Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium segmentation", MICCAI
2019. As there: stochastic passes of the averaged network, the entropy of their mean as uncertainty, a threshold that
grows from 3/4 of the largest entropy to all of it, and the squared difference where uncertainty is below it.
Departures: four passes in place of eight, and their mean is the target too, where the published code makes a ninth
noisy pass for it; the network has no dropout, so passes differ by noise on the image and by channel dropout on the
encoder's features; the threshold follows the ramp of the loss in place of a ramp of its own over all of training;
entropy is of K classes, or the mean over regions; the student sees intensity changes in place of the image itself; the
average covers buffers too; the weight is 1 in place of 0.1; unlabelled images alone have the
consistency loss, as in one of the two published scripts.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from foveate.batches.sampler import Batch
from foveate.methods.method import OF_CLASSES, Method, divide, randomness, weighted
from foveate.methods.perturb import channel_dropout, clipped_noise
from foveate.tasks import Target

PASSES = 4
LOWEST = 0.75  # threshold on the normalised entropy where the ramp starts


class UncertaintyMeanTeacher(Method):
    strong_views: ClassVar[int] = 1
    tasks: ClassVar[tuple[str, ...]] = OF_CLASSES
    reason: ClassVar[str] = "asks for the entropy of classes, and a number has none"

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        pseudo = self.teach(batch, LOWEST + (1 - LOWEST) * weight / self.unlabelled_weight)
        outputs = self.network(torch.cat([batch.images, batch.strong[0]]))
        known, guessed = divide(outputs, len(batch.images))
        losses = self.task.loss(known, self.task.encode(batch.labels))
        return losses | weighted(self.task.squared_error(guessed, pseudo), weight)

    @torch.no_grad()
    def teach(self, batch: Batch, threshold: float) -> Target:
        """The mean of the teacher's stochastic answers, with weight 1 where its normalised entropy is below
        ``threshold``, and the share of passes that are sure to ``confidence`` where that is asked for."""
        generator = randomness(batch)
        drop = partial(channel_dropout, generator=generator)
        passes = [
            self.task.pseudo_label(self.average(clipped_noise(batch.weak, generator), drop), self.sureness)
            for _ in range(PASSES)
        ]
        values = torch.stack([one.values for one in passes]).mean(0)
        certain = self.task.entropy(values) < threshold
        return Target(values, certain * torch.stack([one.weight for one in passes]).mean(0))
