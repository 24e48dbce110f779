"""U-Net for several modalities, any of which may be missing: a stem for each, fused by attention at every voxel.

Source: Zhang et al., "mmFormer: Multimodal Medical Transformer for Incomplete Multimodal Learning of Brain Tumor
Segmentation", MICCAI 2022: encoders of their own for the modalities, attention across them, random subsets of them in
training. Departures: one encoder stage for each modality, not a whole encoder, so that few labels teach few weights and
a step costs little more than one of the U-Net; fusion as ``ModalityFusion`` describes it, on full resolution alone;
no auxiliary decoders for single modalities. Subsets are drawn with the batch (``augment.modality_p``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from foveate.attention import ModalityFusion
from foveate.cohort.plan import Plan
from foveate.layers import present, without_absent
from foveate.networks.unet import Residual, UNet


class FusionUNet(UNet):
    """A U-Net that labels images with any of their modalities. With a single one there is nothing to fuse: ``UNet``."""

    takes_missing: ClassVar[bool] = True

    @classmethod
    def stages(cls, plan: Plan, boxes: int = 0) -> Iterator[nn.Module]:
        first, *others = super().stages(plan, boxes)
        names = [channel.name for channel in plan.channels]
        yield first if len(names) == 1 else ModalityStems(plan.dims, names, plan.widths[0], plan.strides[0], boxes)
        yield from others


class ModalityStems(nn.Module):
    """``[B, M, *S]``, absent modalities NaN -> ``[B, O, *S/stride]``: a residual block for each, fused.

    boxes: further channels, of drawn boxes; they are no modality, so that what is made of them is added to the fused.
    """

    def __init__(
        self, dims: int, modalities: Sequence[str], outputs: int, stride: Sequence[int], boxes: int = 0
    ) -> None:
        super().__init__()
        self.beside = Residual(dims, boxes, outputs, stride) if boxes else None
        self.stems = nn.ModuleList(Residual(dims, 1, outputs, stride) for _ in modalities)
        self.fusion = ModalityFusion(outputs, dims, modalities)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What ``fusion`` takes: ``[B, M, O, *S/stride]``, and which are present ``[B, M]``."""
        # Zero before the stems too: the gradient of their weights is a product with what they saw.
        stems = zip(self.stems, without_absent(x).split(1, dim=1), strict=True)
        return torch.stack([stem(one) for stem, one in stems], dim=1), present(x)

    def forward(self, x: Tensor) -> Tensor:
        image, drawn = x.tensor_split([len(self.stems)], dim=1)
        fused: Tensor = self.fusion(*self.features(image))
        return fused + self.beside(drawn) if self.beside else fused
