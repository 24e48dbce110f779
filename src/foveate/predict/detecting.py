"""Boxes of a scan: found in windows of the patch, and put together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foveate.boxes import suppress
from foveate.predict.answering import Answering, Source
from foveate.predict.sliding import Scan, place_windows
from foveate.tasks import Boxes, Detection
from foveate.tasks.detection import OVERLAP

SHARED = 0.5  # share of a window that the next one covers again: what one cuts the other has whole


class BoxPredictor(Answering[Detection]):
    """Finds boxes in scans on ``device``. batch: windows per call of the network."""

    def predict(
        self,
        source: Source,
        *,
        spacing: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        mirror: bool | Sequence[int] = False,
    ) -> Boxes:
        """Boxes on the scan's own voxel grid, surest first, on the CPU.

        source, spacing, affine: as for a segmentation (``Predictor.predict``). mirror: look at all mirrorings of the
        plan's axes, or of the axes given, too. Raises InputError when the source cannot be read or does not fit.
        """
        image, grid = self.prepared(self.open(source, spacing, affine))
        found = self._find(image, self.mirror_axes(mirror))
        edges = grid.boxes_to_original(found.boxes.double().numpy())
        size = np.tile(np.array(grid.original_shape, float), 2)
        return Boxes(torch.from_numpy(edges.clip(0, size)), found.classes, found.scores)

    def predict_prepared(self, image: np.ndarray) -> Boxes:
        """Boxes of a prepared scan ``[C, *S']`` on its own grid, on the CPU."""
        return self._find(torch.from_numpy(np.array(image, np.float32)), ())

    @torch.inference_mode()
    def _find(self, image: Tensor, mirror: Sequence[int]) -> Boxes:
        shape = tuple(image.shape[1:])
        size = self.plan.patch  # the weights were fitted to it: see ``Predictor``
        windows = place_windows(shape, size, SHARED)
        scan = Scan(image, windows, self.task.channels, self.answer, self.batch, self.device)
        corners = list(itertools.product(*windows.starts))
        flips = [flip for n in range(len(mirror) + 1) for flip in itertools.combinations(mirror, n)]
        parts = []
        for start in range(0, len(corners), self.batch):
            some = corners[start : start + self.batch]
            x = torch.stack([scan.cut(corner) for corner in some]).to(self.device)
            for flip in flips:
                logits = self.finite(self.answer(x.flip([axis + 2 for axis in flip]) if flip else x))
                for corner, found in zip(some, self.task.decode(logits), strict=True):
                    boxes = mirrored(found.boxes.cpu(), flip, size)
                    inside = self._whole(boxes, corner, windows.padded, size)
                    moved = torch.tensor([c - b for c, b in zip(corner, windows.before, strict=True)]).repeat(2)
                    parts.append((boxes[inside] + moved, found.classes.cpu()[inside], found.scores.cpu()[inside]))
        boxes, classes, scores = (torch.cat(each) for each in zip(*parts, strict=True))
        boxes = boxes.clamp_min(0).minimum(boxes.new_tensor(shape).repeat(2))
        seen = (boxes[:, : len(shape)] < boxes[:, len(shape) :]).all(1)  # not in the padding
        boxes, classes, scores = boxes[seen], classes[seen], scores[seen]
        best = suppress(boxes, scores, classes, OVERLAP)
        return Boxes(boxes[best], classes[best], scores[best])

    def _whole(self, boxes: Tensor, corner: Sequence[int], padded: Sequence[int], size: Sequence[int]) -> Tensor:
        """Whether a box of a window ``[N, 2 n]`` is not cut off by an edge within the scan, unless it is larger than
        what the next window covers again."""
        low, high = boxes.chunk(2, dim=1)
        keep = torch.ones(len(boxes), dtype=torch.bool)
        for axis, (first, n) in enumerate(zip(corner, size, strict=True)):
            small = high[:, axis] - low[:, axis] < SHARED * n
            cut = (low[:, axis] < 1) & (first > 0) | (high[:, axis] > n - 1) & (first + n < padded[axis])
            keep &= ~(small & cut)
        return keep


def mirrored(boxes: Tensor, axes: Sequence[int], size: Sequence[int]) -> Tensor:
    """Boxes ``[N, 2 n]`` of an image of ``size`` after mirroring it along ``axes``."""
    low, high = boxes.chunk(2, dim=1)
    extent, flips = boxes.new_tensor(list(size)), torch.tensor([axis in axes for axis in range(len(size))])
    return torch.cat([torch.where(flips, extent - high, low), torch.where(flips, extent - low, high)], 1)
