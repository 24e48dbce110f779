"""Operations on boxes of any number of dimensions n: ``[N, 2 n]``, low corner then high corner, in voxels.

Corners are edges, not centres of voxels: a box around the first voxel of an axis runs from 0 to 1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PAIRS = 1 << 22  # of boxes that suppression compares in one call
SURE = 0.4  # score from which a box is drawn, and counts in tables of cases; scores themselves look at every one


def volumes(boxes: Tensor) -> Tensor:
    """``[..., 2 n] -> [...]``; of a box whose corners are the wrong way round, 0."""
    low, high = boxes.chunk(2, dim=-1)
    return (high - low).clamp_min(0).prod(-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of ``a [N, 2 n]`` with every one of ``b [M, 2 n]``: ``[N, M]``."""
    (low_a, high_a), (low_b, high_b) = a[:, None].chunk(2, dim=-1), b[None].chunk(2, dim=-1)
    both = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp_min(0).prod(-1)
    either = volumes(a)[:, None] + volumes(b)[None] - both
    return both / either.clamp_min(torch.finfo(both.dtype).tiny)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of boxes ``[..., 2 n]`` pair by pair: ``[...]`` in [-1, 1]; boxes of some volume.

    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, algorithm 1.
    """
    (low_a, high_a), (low_b, high_b) = a.chunk(2, dim=-1), b.chunk(2, dim=-1)
    both = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp_min(0).prod(-1)
    either = volumes(a) + volumes(b) - both
    hull = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).prod(-1)
    return both / either - (hull - either) / hull


def suppress(boxes: Tensor, scores: Tensor, classes: Tensor, overlap: float) -> Tensor:
    """Non-maximum suppression within each class: the indices ``[K]`` that stay, highest score first.

    boxes ``[N, 2 n]``, scores ``[N]``, classes ``[N]``. A box goes when it overlaps a better one that stays by an IoU
    above ``overlap``.
    """
    order = scores.argsort(descending=True, stable=True)
    find = _all_at_once if len(order) ** 2 <= PAIRS else _one_by_one
    stays = find(boxes[order], classes[order], overlap)
    return order[torch.from_numpy(stays).to(order.device)]


def _all_at_once(boxes: Tensor, kinds: Tensor, overlap: float) -> np.ndarray:
    """Which boxes ``[N, 2 n]``, best first, stay: bool ``[N]``. Compares all with all in one call."""
    rivals = ((iou(boxes, boxes) > overlap) & (kinds[:, None] == kinds[None])).cpu().numpy()
    stays = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if stays[i]:
            stays[i + 1 :] &= ~rivals[i, i + 1 :]
    return stays


def _one_by_one(boxes: Tensor, kinds: Tensor, overlap: float) -> np.ndarray:
    """The same, comparing each box that stays with those that lie near it: memory by the number of boxes.

    Two boxes of an IoU above t share, along every axis, more than t of the longer of their sides. So where a box has
    the low edge a and the side w, the other's low edge lies between a - (1 - t) w / t and a + (1 - t) w.
    """
    boxes, kinds = boxes.cpu(), kinds.cpu()
    low, high = boxes.chunk(2, dim=1)
    axis = int((high.amax(0) - low.amin(0)).argmax())
    start, reach = low[:, axis].contiguous(), (1 - overlap) * (high - low)[:, axis]
    edges, rank = start.sort()  # of the boxes along the axis, and the place of each among the best
    first = torch.searchsorted(edges, start - reach / max(overlap, 1e-6) - 1).tolist()  # a voxel for rounding
    last = torch.searchsorted(edges, start + reach + 1).tolist()
    along, kinds_along = boxes[rank], kinds[rank]
    stays = torch.ones(len(boxes), dtype=torch.bool)
    for i, (a, b) in enumerate(zip(first, last, strict=True)):
        if stays[i]:
            goes = (iou(boxes[i : i + 1], along[a:b])[0] > overlap) & (kinds_along[a:b] == kinds[i])
            weaker = rank[a:b][goes]
            stays[weaker[weaker > i]] = False
    return stays.numpy()
