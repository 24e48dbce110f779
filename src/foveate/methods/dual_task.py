"""Dual-task consistency: the mask and the signed distance to its surface, by two heads, agree.

Source: Luo et al., "Semi-supervised Medical Image Segmentation through Dual-task Consistency" (DTC), AAAI 2021.
Departures: a distance map for every class but the background; distances in mm, each normalised by its largest on
either side within the patch; voxels next to the surface keep their distance (the published code sets those inside to
0, where the mask would be a half); a class that the patch lacks, or that fills it, is a distance of 1, or -1,
everywhere; all that the distances add has the ramped weight of the unlabelled loss, so that its weight 0 is the
baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from foveate.batches.sampler import Batch
from foveate.config import MethodConfig
from foveate.methods.method import TEACHING, Builder, Method, divide, weighted
from foveate.tasks import Segmentation

STEEPNESS = 1500  # k of the smooth Heaviside function, as published
DISTANCE = 0.3  # weight of the distances' own loss, as published


class DualTask(Method):
    """The head of the distances is trained beside the network, by one optimiser, and is no part of the model."""

    task: Segmentation
    reason: ClassVar[str] = "learns distances to the surface of a structure"

    strong_views: ClassVar[int] = 1
    options: ClassVar[tuple[str, ...]] = TEACHING

    def __init__(
        self, network: nn.Module, task: Segmentation, config: MethodConfig, decay: float, build: Builder | None = None
    ) -> None:
        super().__init__(network, task, config, decay, build)
        decoder: Any = network.decoder
        self.head = decoder.head(task.channels - task.first)

    def players(self) -> dict[str, nn.Module]:
        return {"network": nn.ModuleList([self.network, self.head])}

    def losses(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        task, count = self.task, len(batch.images)
        outputs, distances = self.answer(torch.cat([batch.images, batch.strong[0]]))
        known, guessed = divide(outputs, count)
        target = task.encode(batch.labels)
        true = signed_distance(target.values[:, task.first :], target.weight, task.spacing)
        # Of a class that some voxel may or may not belong to, as a coarse label has it, no distance is known.
        told = (task.known(target) == target.weight).flatten(2).all(2)[:, -true.shape[1] :]
        error = (distances[:count] - true).square() * told.view(*told.shape, *[1] * (true.ndim - 2))
        error = error.mean(1, keepdim=True)  # [L, 1, *S]
        masks = task.probabilities(torch.cat([known[0], guessed[0]]))[:, task.first :]
        added = {
            "distance": DISTANCE * (error * target.weight).sum() / target.weight.sum().clamp_min(1),
            "consistency": (masks - heaviside(distances)).square().mean(),
        }
        return task.loss(known, target) | weighted(added, weight, "dual")

    def answer(self, images: Tensor) -> tuple[Tensor | list[Tensor], Tensor]:
        """Logits as the network gives them, and signed distances ``[B, K, *S]`` in (-1, 1) of every structure."""
        network: Any = self.network
        features = network.decoder.features(network.encode(images))
        return network.decoder.logits(features), self.head(features[0]).float().tanh()


def heaviside(distances: Tensor) -> Tensor:
    """The mask of signed distances: 1 inside, where they are negative, a half on the surface and 0 outside."""
    return (-STEEPNESS * distances).sigmoid()


def signed_distance(masks: Tensor, known: Tensor, spacing: Sequence[float]) -> Tensor:
    """Distance of every known voxel to the nearest known one on the other side of the surface, negative inside; each
    side divided by its largest, so in [-1, 1]; 0 where nothing is known. masks: ``[B, K, *S]``, 0 or 1; known:
    ``[B, 1, *S]``, 0 where a voxel is ignored or lies beyond the scan; spacing in mm per axis."""
    told = known.bool().expand(masks.shape).cpu().numpy()
    inside = masks.bool().cpu().numpy() & told
    outside = told & ~inside
    distances = (outside.astype(np.float32) - inside).astype(np.float32)
    for place in np.ndindex(inside.shape[:2]):
        if inside[place].any() and outside[place].any():
            # To the other side, of the voxels of one side alone: what is not known belongs to neither.
            outer = distance_transform_edt(~inside[place], spacing) * outside[place]
            inner = distance_transform_edt(~outside[place], spacing) * inside[place]
            distances[place] = outer / outer.max() - inner / inner.max()
    return torch.from_numpy(distances).to(masks.device)
