"""Adversarial constraint learning: a segmenter from images with boxes and masks of other scans, never of the same.

A box network g finds the structures, the segmentation network f answers m = f(x, g(x)), and a critic D compares the
answers' shapes with those of masks whose images nobody sees:

    L = |g(x) - box| + box_weight [sections + outside] - critic_weight E D(m)

sections: the mean of relu(1 - sum m) over the sections of the box across every axis: lines in pictures, planes in
volumes. A structure in one piece that touches both ends of its box along an axis meets every section between them.
outside: the sum of m outside the box, by voxels of the box. D is a WGAN critic with gradient penalty. It is never given
an image.

Sources: Ren et al., "Learning with Weak Supervision from Physics and Data-Driven Constraints", IJCAI 2018 (constraints
and a critic of unpaired labels); Kervadec et al., "Bounding boxes for weakly supervised segmentation: Global
constraints get close to full supervision", MIDL 2020, eq. 3-4 (tightness, emptiness); Li, Zhang & He, "Shape-aware
Semi-supervised 3D Semantic Segmentation", MICCAI 2020 (a critic of shape); Gulrajani et al., NeurIPS 2017 (WGAN-GP).
Departures: lines one voxel wide, and a hinge in place of log-barriers; planes in 3D, where a line through a corner of a
tight box need meet nothing; no bound on the size, which the critic sees; sums by voxels or sections of the box, so that
weights mean the same at every size; the critic sees, beside each map, the box around what it shows, so that it can tell
how a structure fills its box: that of the annotation for an answer, that around the structure for a mask; axis-aligned
augmentation alone, since a turned box is loose. Where a patch cuts a box along an axis, the sections that it makes
smaller are left out: what they should meet may lie outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.batches.sampler import Batch
from foveate.config import MethodConfig
from foveate.layers import interpolate
from foveate.methods.method import Builder, Method, Turn, randomness
from foveate.networks.critic import ShapeCritic, gradient_penalty
from foveate.tasks import Segmentation

CRITIC_STEPS = 2  # of the critic, for each of the network
PENALTY = 10.0  # of the critic's gradient


class AdversarialConstraint(Method):
    """Two players: the network, f and g, then the critic. Images with boxes are the unlabelled ones of a batch."""

    task: Segmentation
    reason: ClassVar[str] = "learns where in an image structures are"
    strong_views: ClassVar[int] = 1
    uses_unlabelled: ClassVar[bool] = False
    learns_boxes: ClassVar[bool] = True
    critic_losses: ClassVar[tuple[str, ...]] = ("critic", "penalty")
    options: ClassVar[tuple[str, ...]] = ("box_weight", "critic_weight", "paired_masks")

    def __init__(
        self, network: nn.Module, task: Segmentation, config: MethodConfig, decay: float, build: Builder | None = None
    ) -> None:
        super().__init__(network, task, config, decay, build)
        self.critic = ShapeCritic(task.channels + len(task.classes), len(task.spacing))

    def players(self) -> dict[str, nn.Module]:
        return {"network": self.network, "critic": self.critic}

    def shares(self, batch: int, progress: float, pool: float = 1.0) -> tuple[int, int]:
        """All images have boxes; with ``paired_masks`` half of them have a mask."""
        paired = batch // 2 if self.config.paired_masks else 0
        return paired, batch - paired

    def turns(self, batch: Batch, progress: float) -> Iterator[Turn]:
        assert batch.boxes is not None
        regions = unpack(batch.boxes, len(self.task.classes))
        losses, answers = self.constrained(batch.strong[0], regions)
        answers = torch.cat([answers, regions], dim=1)
        judged = self.config.critic_weight > 0 and batch.masks is not None
        if judged:
            self.critic.requires_grad_(False)  # the network's turn goes through the critic and leaves nothing there
            losses["shape"] = -self.config.critic_weight * self.judge(answers).mean()
            self.critic.requires_grad_(True)
        if self.config.paired_masks and len(batch.images):
            losses |= self.task.loss(self.network(batch.images), self.task.encode(batch.labels))
        yield "network", losses
        if not judged:
            return
        assert batch.masks is not None
        masks = self.task.encode(batch.masks).values
        masks = torch.cat([masks, filled(masks[:, self.task.first :])], dim=1)
        answers, random = answers.detach(), randomness(batch)
        for _ in range(CRITIC_STEPS):
            between = torch.rand(len(masks), generator=random, device=masks.device)
            gap = self.judge(answers).mean() - self.judge(masks).mean()
            penalty = PENALTY * gradient_penalty(self.judge, masks, answers, between)
            yield "critic", {"critic": gap, "penalty": penalty}

    def constrained(self, x: Tensor, regions: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """What the boxes ``regions [B, K, *S]`` of images x demand, and the probabilities of full resolution."""
        losses: dict[str, Tensor] = {}
        network: Any = self.network
        if find := getattr(network, "boxes", None):
            boxes = find(x)
            losses["box"] = box_error(boxes, *find.around(regions))
            outputs = network.decoder(network.encode(x, boxes))
        else:
            outputs = network(x)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        answers = [self.task.probabilities(interpolate(logits.float(), x.shape[2:])) for logits in outputs]
        for name, error in (("sections", section_error), ("outside", outside_error)):
            errors = [0.5**i * error(p[:, self.task.first :], regions) for i, p in enumerate(answers)]
            losses[name] = self.config.box_weight * torch.stack(errors).sum()
        return losses, answers[0]

    def judge(self, maps: Tensor) -> Tensor:
        """Scores ``[B]``, in float32: the penalty is a gradient of a gradient."""
        with torch.autocast(maps.device.type, enabled=False):
            scores: Tensor = self.critic(maps.float())
        return scores


def unpack(boxes: Tensor, structures: int) -> Tensor:
    """Filled boxes ``[B, *S]`` uint8, a bit for each structure -> ``[B, K, *S]`` of 0 and 1."""
    bits = torch.arange(structures, device=boxes.device).reshape(-1, *[1] * (boxes.ndim - 1))
    return ((boxes[:, None].int() >> bits) & 1).float()


def filled(masks: Tensor) -> Tensor:
    """The smallest boxes around what ``masks [B, K, *S]`` of 0 and 1 show, filled."""
    spatial, out = range(2, masks.ndim), torch.ones_like(masks)
    for axis in spatial:
        shown = masks.amax(dim=tuple(a for a in spatial if a != axis), keepdim=True)
        # On from the first and, seen from the other end, on from the last.
        out = out * shown.cummax(axis).values * shown.flip(axis).cummax(axis).values.flip(axis)
    return out


def box_error(boxes: Tensor, truth: Tensor, shown: Tensor) -> Tensor:
    """Mean absolute error of boxes ``[B, K, 2, D]``, in lengths of the patch; of the size alone where none is shown."""
    size = (boxes[:, :, 1] - boxes[:, :, 0]).abs().mean(-1)
    return torch.where(shown, (boxes - truth).abs().mean((2, 3)), size).mean()


def section_error(p: Tensor, regions: Tensor) -> Tensor:
    """Mean of relu(1 - sum p) over the sections of regions across every axis; p and regions ``[B, K, *S]``.

    A section counts only where the region reaches no end of the patch along the axes that span it.
    """
    inside, spatial = p * regions, range(2, p.ndim)
    ends = [regions.index_select(a, torch.tensor([0, p.shape[a] - 1], device=p.device)) for a in spatial]
    cut = torch.stack([end.flatten(2).amax(2) for end in ends])  # [D, B, K]
    lacking, count = p.new_zeros(()), p.new_zeros(())
    for axis in spatial:
        across = tuple(a for a in spatial if a != axis)
        whole = 1 - cut[[a - 2 for a in across]].amax(0)
        sections = regions.amax(across) * whole[..., None]  # [B, K, n]
        lacking = lacking + (F.relu(1 - inside.sum(across)) * sections).sum()
        count = count + sections.sum()
    return lacking / count.clamp_min(1)


def outside_error(p: Tensor, regions: Tensor) -> Tensor:
    """Sum of p outside the regions, by voxels of the regions; where there is none, by voxels of the image."""
    volume = regions.sum(tuple(range(2, p.ndim)))
    outside = (p * (1 - regions)).sum(tuple(range(2, p.ndim)))
    return (outside / torch.where(volume > 0, volume, p[0, 0].numel())).mean()
