"""A box network: where each structure lies in an image, and its boxes drawn as channels for a segmentation network.

Source: the box network of adversarial constraint learning (Ren et al., "Learning with Weak Supervision from Physics and
Data-Driven Constraints", IJCAI 2018, has a regressor trained by constraints and a critic), here in front of a
segmentation network. Its own in this project: one attention pooling (Ilse et al., ICML 2018) per structure; the centre
of a box is the mean position under that attention plus what the pooled feature says, so a shifted image gives a shifted
box, and an image larger than a training patch is no other case.

Boxes are ``[B, K, 2, D]``, K structures: low and high corner along every spatial axis, in lengths of the plan's patch,
from the middle of the image. What an image does not show has the size 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.attention.dot_product import to_tokens
from foveate.attention.pooling import AttentionPooling
from foveate.cohort.plan import Plan
from foveate.layers import conv, instance_norm, without_absent

WIDEST = 32  # channels of any stage
SOFTNESS = 0.02  # of a drawn edge, in lengths of the patch
SIZE = -1.0  # where sizes start, before the softplus: about a third of the patch


class Finder(nn.Module):
    """The box ``[B, 2, D]`` of one structure, from tokens ``[B, N, C]`` and their places ``[N, D]``."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.pool = AttentionPooling(channels)
        self.head = nn.Linear(channels, 2 * dims)

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        weights = self.pool.weights(tokens, torch.ones_like(tokens[..., :1], dtype=torch.bool)).float()  # [B, N, 1]
        offset, size = self.head((weights * tokens).sum(1)).float().chunk(2, dim=1)
        centre, half = (weights * places).sum(1) + offset, F.softplus(size + SIZE) / 2
        return torch.stack([centre - half, centre + half], dim=1)


class BoxNetwork(nn.Module):
    """Images ``[B, C, *S]`` -> boxes ``[B, K, 2, D]``; a missing modality (NaN) counts as its mean, 0."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.patch, count = plan.patch, len(plan.classes)
        widths = [min(width, WIDEST) for width in plan.widths]
        stages = zip(itertools.pairwise((len(plan.channels), *widths)), plan.strides, strict=True)
        self.encoder = nn.Sequential(*(_stage(plan.dims, i, o, stride) for (i, o), stride in stages))
        self.finders = nn.ModuleList(Finder(widths[-1], plan.dims) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(without_absent(x))
        # Strides divide the image, so the coarse grid spans it whole.
        spans = [n / length for n, length in zip(x.shape[2:], self.patch, strict=True)]
        axes = [_centres(n, span, x.device) for n, span in zip(features.shape[2:], spans, strict=True)]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)  # [N, D]
        tokens = to_tokens(features)
        return torch.stack([finder(tokens, places) for finder in self.finders], dim=1)

    def draw(self, boxes: Tensor, size: Sequence[int]) -> Tensor:
        """Boxes as soft masks ``[B, K, *size]``, about 1 inside and 0 outside; gradient reaches every edge."""
        drawn = boxes.new_ones(*boxes.shape[:2], *[1] * len(size))
        for axis, (n, length) in enumerate(zip(size, self.patch, strict=True)):
            place = _centres(n, n / length, boxes.device)
            low, high = boxes[:, :, 0, axis, None], boxes[:, :, 1, axis, None]
            inside = ((place - low) / SOFTNESS).sigmoid() * ((high - place) / SOFTNESS).sigmoid()  # [B, K, n]
            drawn = drawn * inside.reshape(*inside.shape[:2], *[n if a == axis else 1 for a in range(len(size))])
        return drawn

    def around(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest boxes around what ``regions [B, K, *S]`` mark, and whether they mark anything, ``[B, K]``."""
        marked, spatial = regions > 0, range(2, regions.ndim)
        corners = []
        for axis, length in zip(spatial, self.patch, strict=True):
            n = regions.shape[axis]
            shown = marked.any(dim=tuple(a for a in spatial if a != axis)).int()  # [B, K, n]
            low, high = shown.argmax(-1), n - shown.flip(-1).argmax(-1)
            corners.append((torch.stack([low, high], dim=-1) - n / 2) / length)
        return torch.stack(corners, dim=-1), marked.flatten(2).any(-1)


def _centres(n: int, span: float, device: torch.device) -> Tensor:
    """Centres of ``n`` voxels that fill ``span``, from its middle: ``[n]``."""
    return ((torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n - 0.5) * span


def _stage(dims: int, inputs: int, outputs: int, stride: Sequence[int]) -> nn.Module:
    return nn.Sequential(
        conv(dims, inputs, outputs, stride=stride, bias=False),
        instance_norm(outputs),
        nn.LeakyReLU(inplace=True),
        conv(dims, outputs, outputs, bias=False),
        instance_norm(outputs),
        nn.LeakyReLU(inplace=True),
    )
