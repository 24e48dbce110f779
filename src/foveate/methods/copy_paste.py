"""Bidirectional copy-paste: boxes of labelled scans inside unlabelled ones and the reverse.

Source: Bai et al., "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation", CVPR 2023. Departures:
the unlabelled part's weight ramps up and is used (the published code computes a ramp and never uses it); the teacher's
average covers buffers too; the last averaged weights are the model (the published code picks its checkpoint on test
data); no separate pre-training run, in which the published code pastes labelled scans into each other: labelled images
alone until ``start``; the unlabelled part weighs 1, not 0.5; the teacher's probabilities are the pseudo-label, without
cleaning by largest component, which not every structure allows.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from foveate.batches.sampler import Batch
from foveate.methods.method import Method
from foveate.tasks import Target

SIDE = 2 / 3  # side of the pasted box as a share of the patch, as published


class CopyPaste(Method):
    reason: ClassVar[str] = "pastes a part of one scan into another, where the answer for the whole does not follow"

    def shares(self, batch: int, progress: float, pool: float = 1.0) -> tuple[int, int]:
        """Unlabelled images at most as many as labelled ones: each is pasted into one."""
        labelled, unlabelled = super().shares(batch, progress, pool)
        return (labelled, unlabelled) if unlabelled <= labelled else (batch - batch // 2, batch // 2)

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        target = self.task.encode(batch.labels)
        pairs = min(len(batch.images), len(batch.weak))
        with torch.no_grad():
            pseudo = self.task.pseudo_label(self.average(batch.weak[:pairs]), self.sureness)
        pseudo.weight = pseudo.weight * weight
        images, weak = batch.images[:pairs], batch.weak[:pairs]
        known = Target(target.values[:pairs], target.weight[:pairs])
        # The other way round with another partner, where there is one: the same two would make one new image of both.
        other, theirs = images.roll(1, 0), Target(known.values.roll(1, 0), known.weight.roll(1, 0))
        alone = Target(target.values[pairs:], target.weight[pairs:])  # of an odd batch: labelled without a partner
        inside = boxes(batch)[:pairs]  # [P, 1, *S], true = labelled
        mixed = [torch.where(inside, images, weak), torch.where(inside, weak, other), batch.images[pairs:]]
        parts = known.mix(pseudo, inside), pseudo.mix(theirs, inside), alone
        answer = Target(torch.cat([part.values for part in parts]), torch.cat([part.weight for part in parts]))
        return self.task.loss(self.network(torch.cat(mixed)), answer)


def boxes(batch: Batch) -> Tensor:
    """One random box per labelled image, ``[L, 1, *S]`` bool, placed by the batch's own seed, so that a replayed
    step pastes the same box."""
    size = batch.images.shape[2:]
    mask = torch.zeros(len(batch.images), 1, *size, dtype=torch.bool)
    generator = torch.Generator().manual_seed(batch.seed)
    for i in range(len(mask)):
        corner = [int(torch.randint(n - int(n * SIDE) + 1, (1,), generator=generator)) for n in size]
        mask[i, 0][tuple(slice(c, c + int(n * SIDE)) for c, n in zip(corner, size, strict=True))] = True
    return mask.to(batch.images.device)
