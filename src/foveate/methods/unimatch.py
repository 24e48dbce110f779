"""UniMatch: FixMatch with two strong views of each image and a third stream that perturbs its features.

Source: Yang et al., "Revisiting weak-to-strong consistency in semi-supervised semantic segmentation", CVPR 2023. As
there: hard labels from the student's own weak answer above 0.95 (``confidence``), half of the unlabelled loss for the
two strong views, half for the weak view whose encoder features lose half of their channels before the decoder.
Departures: the loss is the task's own (soft Dice and cross-entropy) over the voxels that are sure; strong views have
intensity changes without CutMix; the weak answer comes from a pass of its own without gradient, which is cheaper than
decoding with one and throwing it away; dropped channels are the same for no two images or resolutions. A step costs
just below 2.2 of the baseline, and its pass holds twice as many images.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foveate.batches.sampler import Batch
from foveate.methods.method import BOXES, OF_CLASSES, Method, divide, finest, randomness, weighted
from foveate.methods.perturb import channel_dropout
from foveate.tasks import Target


class UniMatch(Method):
    strong_views: ClassVar[int] = 2
    confidence: ClassVar[float] = 0.95
    tasks: ClassVar[tuple[str, ...]] = (*OF_CLASSES, BOXES)
    reason: ClassVar[str] = "teaches where a class is likely enough, and a number has no such probability"

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        labelled, count = len(batch.images), len(batch.weak)
        generator = randomness(batch)

        def drop(feature: Tensor) -> Tensor:
            """Channel dropout for the rows of the weak views alone."""
            before, weak, after = feature.split([labelled, count, len(feature) - labelled - count])
            return torch.cat([before, channel_dropout(weak, generator), after])

        outputs = self.network(torch.cat([batch.images, batch.weak, *batch.strong]), drop)  # [L + 3 U, K, *S]
        # After the pass with gradient: autocast of older torch versions would reuse weights it had cast without one.
        with torch.no_grad():
            pseudo = self.task.harden(self.task.pseudo_label(finest(self.network(batch.weak)), self.sureness))
        known, guessed = divide(outputs, labelled)
        perturbed, strong = divide(guessed, count)
        twice = Target(torch.cat([pseudo.values] * 2), torch.cat([pseudo.weight] * 2))
        losses = self.task.loss(known, self.task.encode(batch.labels))
        losses |= weighted(self.task.loss(strong, twice), weight / 2)
        return losses | weighted(self.task.loss(perturbed, pseudo), weight / 2, "unlabelled features")
