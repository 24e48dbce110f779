"""Detection: boxes around structures, from a dense map on one grid; no anchors.

Sources: Liu et al., "Training-Time-Friendly Network for Real-Time Object Detection" (TTFNet), AAAI 2020, which learns
in a fraction of the steps: every cell in the middle of a structure learns its box, weighted by a Gaussian; Zhou et al.,
"Objects as Points" (CenterNet), 2019, eq. 1 (the focal loss of the centres). Of unlabelled images a teacher's boxes are
the target, as in Sohn et al., "A Simple Semi-Supervised Learning Framework for Object Detection" (STAC), 2020.
Departures: any number of dimensions; the grid is the decoder's of about STRIDE voxels; a structure weighs the same
whatever its size, in place of the logarithm of its area; distances to the sides are exponentials, so that they are
positive; of boxes that overlap the best stays (NMS), as neighbouring cells may both be peaks; a box of which the
teacher is unsure teaches neither that it is there nor that it is not, where STAC takes it for background.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.batches.boxes import IGNORED, PADDING
from foveate.boxes import giou, suppress, volumes
from foveate.cohort.plan import Plan
from foveate.tasks.task import Target, Task

STRIDE = 4  # voxels between cells of the map, at most
UNIT = 16.0  # voxels from a cell to a side that an answer of zero means
ALPHA = 0.54  # share of a structure's side over which its Gaussian reaches, at three standard deviations
SIDES = 5.0  # weight of the loss of the sides


PEAKS = 300  # cells of an image and class that are looked at
OVERLAP = 0.5  # IoU above which the weaker of two boxes of one class goes
LEAST = 0.05  # score below which a box is not written
DOUBT = 0.1  # score from which a teacher's box is not taken for background


@dataclass(frozen=True)
class Boxes:
    """What was found in one image, surest first: boxes ``[N, 2 n]`` as in ``foveate.boxes``, in voxels of what the
    network saw; classes ``[N]`` from 0; scores ``[N]`` in [0, 1]."""

    boxes: Tensor
    classes: Tensor
    scores: Tensor


def output_stage(plan: Plan) -> int:
    """The coarsest stage of a network whose cells are at most STRIDE voxels apart."""
    steps = [max(strides) for strides in map_strides(plan)]
    return max(stage for stage, step in enumerate(steps) if step <= STRIDE)


def map_strides(plan: Plan) -> list[tuple[int, ...]]:
    """Voxels of the patch between cells of every stage, by axis."""
    totals = itertools.accumulate(plan.strides, lambda a, b: tuple(x * y for x, y in zip(a, b, strict=True)))
    return list(totals)


class Detection(Task):
    """Head, loss, pseudo-label and decoding of detection for the classes of a plan.

    ``channels`` logit maps ``[B, K + 2 n, *M]`` on the map M of cells: K classes (is the middle of a structure here?),
    then the distances from the cell's centre to the low and to the high sides of its box. The values of a Target are K
    heats in [0, 1], those 2 n distances in voxels, and each cell's share in teaching its box, ``[B, K + 2 n + 1, *M]``;
    its weight ``[B, 1, *M]`` is 0 where nothing is known.
    """

    name: ClassVar[str] = "detection"
    exclusive = False
    confidence: ClassVar[float | None] = 0.4  # score from which a teacher's box is a label; no probability of a class

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.dims, self.kinds = plan.dims, len(plan.classes)
        self.channels = self.kinds + 2 * self.dims
        self.stride = map_strides(plan)[output_stage(plan)]
        self.size = tuple(n // step for n, step in zip(plan.patch, self.stride, strict=True))

    def encode(self, labels: Tensor, size: Sequence[int] | None = None) -> Target:
        """Boxes ``[B, N, 2 n + 1]``, class last -> Target on a map of ``size``, by default that of a patch."""
        size, dims = tuple(size or self.size), self.dims
        if not labels.shape[1]:
            labels = labels.new_full((len(labels), 1, 2 * dims + 1), PADDING)
        boxes, classes = labels[..., :-1].float(), labels[..., -1].long()  # [B, N, 2 n], [B, N]
        bell = self.bells(boxes, size) * self.along(classes >= 0)  # [B, N, *M]
        heats = [(bell * self.along(classes == k)).amax(1) for k in range(self.kinds)]
        # The smallest structure whose bell reaches a cell has it.
        size_of = volumes(boxes).masked_fill(classes < 0, torch.inf)
        rank = torch.where(bell > 0, self.along(size_of), torch.inf)
        smallest, owner = rank.min(1, keepdim=True)  # [B, 1, *M]
        own = torch.zeros_like(bell).scatter_(1, owner, smallest.isfinite().to(bell.dtype)) * bell
        share = (own / self.along(own.flatten(2).sum(2).clamp_min(1e-6))).sum(1, keepdim=True)
        index = owner.flatten(2).expand(-1, 2 * dims, -1)  # [B, 2 n, cells]
        sides = boxes.transpose(1, 2).gather(2, index).unflatten(2, size)
        distances = torch.where(share > 0, self.to_distances(sides), UNIT)
        weight = (~self.inside(boxes, classes == IGNORED, size)).float()
        weight = torch.maximum(weight, (bell.amax(1, keepdim=True) > 0).float())
        return Target(torch.cat([torch.stack(heats, 1), distances, share], 1), weight)

    def example(self, count: int, plan: Plan) -> Tensor:
        corner = torch.tensor(plan.patch) / 4
        row = torch.cat([corner, 2 * corner, torch.zeros(1)])
        return row.expand(count, 16, -1).clone()

    def loss(self, outputs: Tensor | list[Tensor], target: Target) -> dict[str, Tensor]:
        """Focal loss of the heats and generalised IoU of the boxes, both by the number of structures."""
        logits = (outputs[0] if isinstance(outputs, list) else outputs).float()
        heats, _, share = self.parts(target.values)
        share = share * target.weight
        p = logits[:, : self.kinds].sigmoid().clamp(1e-4, 1 - 1e-4)
        peak = heats == 1
        there = -((1 - p).square() * p.log())
        absent = -((1 - heats).pow(4) * p.square() * (1 - p).log())
        number = (peak * target.weight).sum().clamp_min(1)
        focal = (torch.where(peak, there, absent) * target.weight).sum() / number
        agree = giou(self.boxes_at(logits), self.boxes_at_distances(target.values[:, self.kinds : -1]))  # [B, *M]
        sides = ((1 - agree) * share[:, 0]).sum() / share.sum().clamp_min(1)
        return {"focal": focal, "giou": SIDES * sides}

    def pseudo_label(self, logits: Tensor, confidence: float = 0.0) -> Target:
        """A teacher's boxes, encoded: those of a score of ``confidence`` (LEAST at least); of less, down to DOUBT,
        they teach nothing where no surer one is."""
        found = self.decode(logits, DOUBT)
        rows = max([len(item.scores) for item in found] + [1])
        labels = logits.new_full((len(found), rows, 2 * self.dims + 1), PADDING, dtype=torch.float32)
        for row, item in zip(labels, found, strict=True):
            count = len(item.scores)
            row[:count, :-1] = item.boxes
            row[:count, -1] = torch.where(item.scores >= confidence, item.classes, IGNORED)
        return self.encode(labels, logits.shape[2:])

    def harden(self, target: Target) -> Target:
        """The same: boxes are decided when they are encoded."""
        return target

    def decode(self, logits: Tensor, sureness: float = LEAST) -> list[Boxes]:
        """Boxes of each image: cells that are the highest among their neighbours and reach ``sureness``, less those
        that a better one suppresses."""
        heats = logits[:, : self.kinds].float().sigmoid()
        pool: Any = F.max_pool2d if self.dims == 2 else F.max_pool3d
        peaks = heats * (pool(heats, 3, 1, 1) == heats)
        boxes = self.boxes_at(logits.float()).flatten(1, -2)  # [B, cells, 2 n]
        limit = boxes.new_tensor([n * s for n, s in zip(logits.shape[2:], self.stride, strict=True)]).repeat(2)
        found = []
        for image, where in zip(peaks.flatten(2), boxes, strict=True):
            scores, cells = image.topk(min(PEAKS, image.shape[1]), dim=1)  # [K, P]
            kinds = torch.arange(self.kinds, device=logits.device)[:, None].expand_as(cells)
            keep = scores >= max(sureness, 1e-6)
            scores, cells, kinds = scores[keep], cells[keep], kinds[keep]
            inside = where[cells].clamp_min(0).minimum(limit)
            best = suppress(inside, scores, kinds, OVERLAP)
            found.append(Boxes(inside[best], kinds[best], scores[best]))
        return found

    def parts(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values of a target -> heats ``[B, K, *M]``, distances ``[B, 2 n, *M]``, shares ``[B, 1, *M]``."""
        heats, distances, share = values.split([self.kinds, 2 * self.dims, 1], dim=1)
        return heats, distances, share

    def boxes_at(self, logits: Tensor) -> Tensor:
        """The box that each cell answers: ``[B, *M, 2 n]``."""
        # Beyond e^4 units no patch reaches, and the exponential of a first wild step would not be finite.
        return self.boxes_at_distances(UNIT * logits[:, self.kinds :].clamp(-6, 4).exp())

    def boxes_at_distances(self, distances: Tensor) -> Tensor:
        """``[B, 2 n, *M] -> [B, *M, 2 n]``."""
        low, high = distances.chunk(2, dim=1)
        centres = self.centres(distances.shape[2:], distances.device)
        return torch.cat([centres - low, centres + high], 1).movedim(1, -1)

    def to_distances(self, sides: Tensor) -> Tensor:
        """Corners of each cell's box ``[B, 2 n, *M]`` -> distances of the cell's centre to its sides."""
        low, high = sides.chunk(2, dim=1)
        centres = self.centres(sides.shape[2:], sides.device)
        # A cell of a bell may lie just outside a box that is smaller than it: its own side is then a little way off.
        return torch.cat([centres - low, high - centres], 1).clamp_min(0.5)

    def centres(self, size: Sequence[int], device: torch.device) -> Tensor:
        """Where the cells' centres lie, in voxels: ``[1, n, *M]``."""
        axes = [(torch.arange(n, device=device) + 0.5) * step for n, step in zip(size, self.stride, strict=True)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]

    def bells(self, boxes: Tensor, size: Sequence[int]) -> Tensor:
        """A Gaussian about the cell of each box's middle, exactly 1 there: ``[B, N, 2 n] -> [B, N, *M]``."""
        low, high = boxes.chunk(2, dim=-1)
        step = boxes.new_tensor(self.stride)
        last = boxes.new_tensor(size) - 1
        middle = ((low + high) / 2 / step).floor().clamp_min(0).minimum(last)
        sigma = ((high - low) / step * ALPHA / 6).clamp_min(0.2)
        bell = boxes.new_ones(())
        for axis, n in enumerate(size):
            away = torch.arange(n, device=boxes.device) - middle[..., axis, None]  # [B, N, n]
            along = torch.exp(-(away**2) / (2 * sigma[..., axis, None] ** 2))
            along = along * (away.abs() <= 3 * sigma[..., axis, None])
            bell = bell * along.reshape(*along.shape[:2], *[n if a == axis else 1 for a in range(len(size))])
        return bell

    def inside(self, boxes: Tensor, chosen: Tensor, size: Sequence[int]) -> Tensor:
        """Whether a cell's centre lies in any of the ``chosen [B, N]`` boxes: ``[B, 1, *M]`` bool."""
        centres = self.centres(size, boxes.device)[:, None]  # [1, 1, n, *M]
        low, high = (corner.reshape(*corner.shape, *[1] * len(size)) for corner in boxes.chunk(2, dim=-1))
        within = ((centres >= low) & (centres < high)).all(2) & self.along(chosen)
        return within.any(1, keepdim=True)

    def along(self, values: Tensor) -> Tensor:
        """``[B, N] -> [B, N, 1, ...]``, to meet maps."""
        return values.reshape(*values.shape, *[1] * self.dims)
