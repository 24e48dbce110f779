"""Operations on boxes of any number of dimensions n: ``[N, 2 n]``, low corner then high corner, in voxels.

Corners are edges, not centres of voxels: a box around the first voxel of an axis runs from 0 to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    kinds = classes[order]
    rivals = ((iou(boxes[order], boxes[order]) > overlap) & (kinds[:, None] == kinds[None])).cpu().numpy()
    stays = torch.ones(len(order), dtype=torch.bool).numpy()
    for i in range(len(order)):
        if stays[i]:
            stays[i + 1 :] &= ~rivals[i, i + 1 :]
    return order[torch.from_numpy(stays).to(order.device)]
