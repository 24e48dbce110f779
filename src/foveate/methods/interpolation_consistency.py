"""Interpolation consistency training (ICT): the answer to a mixture of two images is the mixture of their answers.

Source: Verma et al., "Interpolation consistency training for semi-supervised learning", IJCAI 2019. As there: one
lambda a step mixes unlabelled images (mixup, Zhang 2018), the averaged network answers each of them, and the student
learns the mixed answers on the mixed images by the squared difference, which weighs 100.
Departures: lambda is uniform, Beta(1, 1), the published value for CIFAR-10; labelled images are not mixed; the partner
is the next image of the batch, and of a single unlabelled image the first labelled one, for which the teacher's answer
counts as well: the loss stays one of consistency.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foveate.batches.sampler import Batch
from foveate.methods.method import ANY_TASK, Method, divide, weighted
from foveate.tasks import Target


class InterpolationConsistency(Method):
    unlabelled_weight = 100.0
    reason: ClassVar[str] = "mixes the answers to two images"
    tasks: ClassVar[tuple[str, ...]] = ANY_TASK

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        count = len(batch.weak)
        images = batch.weak if count > 1 else torch.cat([batch.weak, batch.images[:1]])
        share = float(torch.rand((), generator=torch.Generator().manual_seed(batch.seed)))  # lambda
        with torch.no_grad():
            answer = self.task.pseudo_label(self.average(images), self.sureness)
        partner = Target(answer.values.roll(1, 0), answer.weight.roll(1, 0))
        mixed = share * images + (1 - share) * images.roll(1, 0)
        target = answer.blend(partner, share)
        outputs = self.network(torch.cat([batch.images, mixed[:count]]))
        known, guessed = divide(outputs, len(batch.images))
        losses = self.task.loss(known, self.task.encode(batch.labels))
        consistency = self.task.squared_error(guessed, Target(target.values[:count], target.weight[:count]))
        return losses | weighted(consistency, weight)
