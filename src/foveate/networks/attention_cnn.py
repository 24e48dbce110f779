"""A CNN whose positions are weighed by attention and summed: for labels of whole images, and for where they come from.

Sources: Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018, eq. 7-9 (gated attention over a bag,
here of positions); Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, eq. 2 (a linear
head on pooled features is a sum over positions); Brendel & Bethge, "Approximating CNNs with Bag-of-local-Features
Models", ICLR 2019 (positions that see little); Luo et al., "Understanding the Effective Receptive Field in Deep
Convolutional Neural Networks", NeurIPS 2016 (of what a position sees, the middle counts most); Ioffe & Szegedy, ICML
2015 (batch normalisation); Vaswani et al., NeurIPS 2017 (attention among positions, as any block of ``ATTENTION`` in
the slot ``bottleneck``).

Departures: the instances are positions of one feature map, not patches that are encoded one by one, and one pass gives
all; classes share one attention, and their weights tell them apart; the encoder has the U-Net's widths, strides and
blocks, cut where its map would be too coarse to show a place. Attention is over the positions of an image, never over
the images of a batch. Batch normalisation, and not the U-Net's instance normalisation: through that, a lesion changes
the features of every position, and the network learnt to answer from anywhere. Below full resolution a block has one
convolution that looks at neighbours, not two: positions that saw 23 voxels answered from beside what they saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.cohort.plan import Plan
from foveate.config import NetworkConfig
from foveate.errors import refuse
from foveate.layers import batch_norm
from foveate.networks.classifier import Classifier
from foveate.networks.unet import Residual, UNet

COARSEST = 4  # voxels from one position to the next at most
FEWEST = 8  # positions at least along every axis that is down-sampled


class Local(Residual):
    """The U-Net's block with batch normalisation, through which a position learns nothing of the rest of the image."""

    norm = staticmethod(batch_norm)


class Narrow(Local):
    """The same, whose second convolution looks at no neighbours."""

    second = 1


class LocalStages(UNet):
    """The encoder: such blocks from full resolution on, narrow ones below it, so that a position sees few voxels."""

    stage, finest = Narrow, Local


class AttentionCNN(Classifier):
    """logit_k = w_k^T sum_i a_i h_i + b_k of the positions h_i of the last feature map: ``[B, C, *S] -> [B, K]``.

    As this is linear in h, logit_k = b_k + sum_i c_ki with c_ki = a_i w_k^T h_i: what position i adds to it. The slots
    ``encoder`` and ``bottleneck`` take attention blocks; one in the bottleneck joins the positions before they are
    weighed: the map still adds up, but each position then speaks for all that it has attended to.
    Raises InputError for a pooling without weights, and as ``Classifier`` does.
    """

    stages_of = LocalStages

    def __init__(self, plan: Plan, channels: int, config: NetworkConfig) -> None:
        if (pool := config.attention.pool) != "attention":
            fix = "Leave it out, or give --network classifier."
            raise refuse("configuration", "network.attention.pool", pool, "attention, whose weights are the map", fix)
        super().__init__(plan, channels, config)
        plan = self.fitted(plan)
        self.stride = tuple(math.prod(stage[axis] for stage in plan.strides) for axis in range(plan.dims))
        self.head = nn.Linear(plan.widths[-1], channels)

    @staticmethod
    def fitted(plan: Plan) -> Plan:
        """The plan with as many stages as leave a map that is fine enough to show a place."""
        size, reach, depth = plan.patch, (1,) * plan.dims, 1
        for stage in plan.strides[1:]:
            reach = tuple(r * step for r, step in zip(reach, stage, strict=True))
            if any(r > 1 and (r > COARSEST or n // r < FEWEST) for n, r in zip(size, reach, strict=True)):
                break
            depth += 1
        return plan.model_copy(update={"widths": plan.widths[:depth], "strides": plan.strides[:depth]})

    def forward(
        self, x: Tensor, perturb: Callable[[Tensor], Tensor] | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """perturb: applied to the feature that is pooled. mask: ``[B, *S]``, true for what may be attended to."""
        feature = self.encode(x)[-1]
        logits: Tensor = self.head(self.pool(feature if perturb is None else perturb(feature), self._centres(mask)))
        return logits

    def contributions(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """c ``[B, K, *S / stride]``: summed over positions, logit less bias. 0 where the mask is false."""
        feature, mask = self.encode(x)[-1], self._centres(mask)
        weights: Tensor = self.pool.attention(feature, mask)
        return weights * (feature.movedim(1, -1) @ self.head.weight.mT).movedim(-1, 1)

    def evidence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same at voxels, ``[B, K, *S]``: what each position adds is shared out over the voxels that it sees, so
        that their sum is the logit less its bias as well. A position that answers for what lies beside its middle, and
        others for it from the other sides, then point at what they all see.
        """
        values = self.contributions(x, mask)
        looks = [layer for stage in self.encoder for layer in stage[0].body if hasattr(layer, "kernel_size")]  # type: ignore[index]
        for axis, n in enumerate(x.shape[2:]):
            layers = [(layer.kernel_size[axis], layer.stride[axis]) for layer in looks]
            field = field_of_view(torch.eye(n, dtype=values.dtype, device=values.device), layers)
            values = (values.movedim(2 + axis, -1) @ field).movedim(-1, 2 + axis)
        return values

    def _centres(self, mask: Tensor | None) -> Tensor | None:
        """Whether the voxel that a position is centred on may be attended to, ``[B, *S] -> [B, *S / stride]``."""
        return mask if mask is None else mask[:, *(slice(None, None, step) for step in self.stride)]


def field_of_view(voxels: Tensor, layers: Sequence[tuple[int, int]]) -> Tensor:
    """How much of what each position says comes from each voxel of an axis, ``[positions, N]``: rows that sum to 1.

    voxels: the unit matrix ``[N, N]``. layers: (kernel, stride) of convolutions with "same" padding, each taken for a
    mean over its kernel, as it is on average before it has learnt anything.
    """
    seen = voxels
    for kernel, stride in layers:
        seen = F.avg_pool1d(seen, kernel, stride, kernel // 2, count_include_pad=False)
    return seen.mT
