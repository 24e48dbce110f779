"""Pyramid consistency: a network's answers at several resolutions agree, least where they are uncertain.

Source: Luo et al., "Efficient Semi-supervised Gross Target Volume of Nasopharyngeal Carcinoma Segmentation via
Uncertainty Rectified Pyramid Consistency" (URPC), MICCAI 2021. Departures: labelled images are learnt by the
task's own loss at every resolution, the coarser ones counting less, not equally at full resolution; each scale is
averaged by its own weights (as the published code does); the divergence is that of the paper, KL(scale || mean), not
the reverse; it weighs 1, not 0.1 (published code); overlapping regions are each a choice of two.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.batches.sampler import Batch
from foveate.config import MethodConfig
from foveate.errors import refuse
from foveate.layers import interpolate
from foveate.methods.method import TEACHING, Builder, Method, divide, weighted
from foveate.tasks import Segmentation


class PyramidConsistency(Method):
    """Raises InputError for a network that answers at one resolution."""

    strong_views: ClassVar[int] = 1
    options: ClassVar[tuple[str, ...]] = TEACHING

    def __init__(
        self, network: nn.Module, task: Segmentation, config: MethodConfig, decay: float, build: Builder | None = None
    ) -> None:
        decoder: Any = network.decoder
        if len(decoder.heads) < 2:
            raise refuse(
                "configuration",
                "network.deep_supervision",
                "a network that answers at one resolution",
                "several for method pyramid_consistency, which compares them",
                "Set network.deep_supervision=true and let plan.json have at least four stages (widths, strides), or "
                "choose another method.",
            )
        super().__init__(network, task, config, decay, build)

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        known, guessed = divide(self.network(torch.cat([batch.images, batch.strong[0]])), len(batch.images))
        size = guessed[0].shape[2:]
        scales = [self.task.log_probabilities(interpolate(logits.float(), size)) for logits in guessed]
        consistency = rectified_consistency(torch.stack(scales))
        return self.task.loss(known, self.task.encode(batch.labels)) | weighted(consistency, weight)


def rectified_consistency(scales: Tensor) -> dict[str, Tensor]:
    """Distance of every scale to their mean where they are certain, and the uncertainty itself.

    scales: log-probabilities ``[R, B, K, *S]``. With p_c the mean of p_r over R, and D_r = KL(p_r || p_c) of a voxel,
    consistency = mean_r sum_v exp(-D_r) (p_r - p_c)^2 / sum_v exp(-D_r), uncertainty = mean_r,v D_r.
    """
    mean = scales.logsumexp(0) - math.log(len(scales))
    divergence = (scales.exp() * (scales - mean)).sum(2)  # [R, B, *S]
    certainty = (-divergence).exp()
    distance = (scales.exp() - mean.exp()).square().mean(2)
    voxels = tuple(range(1, distance.ndim))
    consistency = (distance * certainty).sum(voxels) / certainty.sum(voxels)
    return {"consistency": consistency.mean(), "uncertainty": divergence.mean()}
