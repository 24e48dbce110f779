"""FixMatch: the student's own sure answers on weak views are hard labels for the strong views.

Source: Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and confidence", NeurIPS 2020.
As there, the student labels for itself, and only where its highest probability reaches 0.95 (``confidence``).
Departures: the loss is the task's own (soft Dice and cross-entropy) over the voxels that are sure, in place of
cross-entropy over all with zeros for the unsure ones; where voxels have answers, views share their geometry and the
strong one has intensity changes without cutout; as many unlabelled as labelled images in place of seven times as many.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foveate.batches.sampler import Batch
from foveate.methods.method import BOXES, OF_CLASSES, Method, divide, finest, weighted


class FixMatch(Method):
    strong_views: ClassVar[int] = 1
    confidence: ClassVar[float] = 0.95
    tasks: ClassVar[tuple[str, ...]] = (*OF_CLASSES, BOXES)
    reason: ClassVar[str] = "teaches where a class is likely enough, and a number has no such probability"

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        outputs = self.network(torch.cat([batch.images, batch.strong[0]]))
        # After the pass with gradient: autocast of older torch versions would reuse weights it had cast without one.
        with torch.no_grad():
            pseudo = self.task.harden(self.task.pseudo_label(finest(self.network(batch.weak)), self.sureness))
        known, guessed = divide(outputs, len(batch.images))
        losses = self.task.loss(known, self.task.encode(batch.labels))
        return losses | weighted(self.task.loss(guessed, pseudo), weight)
