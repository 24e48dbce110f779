"""Mean teacher: the averaged network labels weak views of unlabelled scans, the student learns them on strong views.

Source: Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017.
Departures: the consistency loss is the task's own loss against the teacher's probabilities (soft Dice and
cross-entropy) in place of the squared difference, because an overlap loss does not drown in background; the
teacher sees geometry alone and the student intensity changes on top (FixMatch, Sohn 2020), both through the same
geometry, so that voxels correspond; unlabelled images replace half of the labelled ones after ``start``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch

from foveate.batches.sampler import Batch
from foveate.methods.method import Method, Turn


class MeanTeacher(Method):
    strong_views: ClassVar[int] = 1

    def turns(self, batch: Batch, progress: float) -> Iterator[Turn]:
        labelled = len(batch.images)
        target = self.task.encode(batch.labels)
        if not len(batch.weak):
            yield "network", self.task.loss(self.network(batch.images), target)
            return
        with torch.no_grad():
            pseudo = self.task.pseudo_label(self.average(batch.weak), self.config.confidence)
        outputs = self.network(torch.cat([batch.images, batch.strong[0]]))  # one pass: [L + U, K, *S] per resolution
        outputs = outputs if isinstance(outputs, list) else [outputs]
        losses = self.task.loss([o[:labelled] for o in outputs], target)
        unlabelled = self.task.loss([o[labelled:] for o in outputs], pseudo)
        weight = self.weight(progress)
        yield "network", losses | {f"unlabelled {name}": weight * value for name, value in unlabelled.items()}
