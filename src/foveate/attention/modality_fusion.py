"""Fusion of modalities, any of which may be missing: at every voxel, attention over those that are there.

Sources: Zhang et al., "mmFormer: Multimodal Medical Transformer for Incomplete Multimodal Learning of Brain Tumor
Segmentation", MICCAI 2022, for attention across modalities of which a random subset is seen in training; Oktay et al.,
"Attention U-Net", MIDL 2018, eq. 1-2, for the additive score.
Departures: mmFormer lets the tokens of all modalities attend to each other at the coarsest grid and sets missing ones
to zero, of which its softmax still takes notice; here one softmax over the modalities at every voxel leaves missing
ones out, so that nothing they hold can matter, and one modality alone passes unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foveate.layers import conv


class ModalityFusion(nn.Module):
    """a_m = softmax over present m of psi(relu(W f_m + U mean f)); returns sum_m a_m f_m, ``[B, C, *S]``.

    features: ``[B, M, C, *S]``, f_m of M modalities. present: ``[B, M]`` bool; what an absent modality is filled with
    (NaN too) reaches neither the answer nor a gradient. The mean is that of the present. All weights are shared by the
    modalities, so their order means nothing. An image without any present modality gives zero. modalities: their names,
    for people.
    """

    def __init__(self, channels: int, spatial_dims: int, modalities: Sequence[str] = ()) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        hidden = max(channels // 2, 1)
        self.of_each = conv(spatial_dims, channels, hidden, kernel=1)
        self.of_mean = conv(spatial_dims, channels, hidden, kernel=1, bias=False)
        # Without a bias, which would raise the score of every modality alike.
        self.psi = conv(spatial_dims, hidden, 1, kernel=1, bias=False)

    def attention(self, features: Tensor, present: Tensor) -> Tensor:
        """a ``[B, M, *S]`` in [0, 1]: one map for each modality; their sum is 1 at every voxel."""
        return self._weights(*_without_absent(features, present)).squeeze(2)

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        features, there = _without_absent(features, present)
        return (features * self._weights(features, there)).sum(1).to(features.dtype)

    def _weights(self, features: Tensor, there: Tensor) -> Tensor:
        """From features that are zero where absent; there: ``[B, M, 1, 1, ...]`` bool."""
        count = there.sum(1).clamp_min(1)  # [B, 1, 1, ...]
        mean = self.of_mean(features.sum(1) / count)  # [B, H, *S]
        hidden = self.of_each(features.flatten(0, 1)).unflatten(0, features.shape[:2]) + mean[:, None]
        scores = self.psi(hidden.relu().flatten(0, 1)).unflatten(0, features.shape[:2])  # [B, M, 1, *S]
        # The lowest number in place of -inf, which would make NaN of an image without any modality.
        weights = scores.masked_fill(~there, torch.finfo(scores.dtype).min).softmax(1)
        return torch.where(there, weights, 0.0)


def _without_absent(features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Features with zero in place of absent ones, and ``present`` as ``[B, M, 1, 1, ...]``. By ``where``: a product
    with 0 would keep a NaN, and the gradient of what it multiplies."""
    there = present.reshape(*present.shape, *[1] * (features.ndim - 2))
    return torch.where(there, features, 0.0), there
