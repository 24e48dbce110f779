"""Attention blocks by the name they have on the command line.

Contract: ``Block(channels, spatial_dims)``. ``forward(x)`` keeps the shape ``[B, C, *S]``, S two- or
three-dimensional and of any size. A block that joins two features says ``inputs = 2`` and takes ``forward(x, other)``.

A block that can be looked at has ``attention(...)``, which takes what forward takes and returns weights that are not
negative: ``[B, 1, *S]`` (or ``[B, C, *S]``) where they lie in image space, ``[B, C, 1, ...]`` where they weigh
channels. Where ``multiplies`` is true they are what forward multiplies x with. In blocks of queries and keys they are
the attention that each voxel receives, the mean over queries and heads.

``ModalityFusion`` sits in no slot, as it takes the features of all modalities and which of them are present; its
attention is ``[B, M, 1, *S]``, a map for each.
"""

from torch import nn

from foveate.attention.aff import AttentionalFusion
from foveate.attention.cbam import ConvBlockAttention
from foveate.attention.coordinate import CoordinateAttention
from foveate.attention.eca import EfficientChannelAttention
from foveate.attention.gate import AttentionGate
from foveate.attention.global_context import GlobalContext
from foveate.attention.large_kernel import LargeKernelAttention
from foveate.attention.modality_fusion import ModalityFusion
from foveate.attention.multi_scale_conv import MultiScaleConv
from foveate.attention.scse import SpatialChannelSqueezeExcite
from foveate.attention.selective_kernel import SelectiveKernel
from foveate.attention.spp import PyramidPooling
from foveate.attention.squeeze_excite import SqueezeExcite
from foveate.attention.strip import StripPooling

ATTENTION: dict[str, type[nn.Module]] = {
    "gate": AttentionGate,
    "squeeze_excite": SqueezeExcite,
    "scse": SpatialChannelSqueezeExcite,
    "cbam": ConvBlockAttention,
    "eca": EfficientChannelAttention,
    "coordinate": CoordinateAttention,
    "global_context": GlobalContext,
    "selective_kernel": SelectiveKernel,
    "large_kernel": LargeKernelAttention,
    "multi_scale_conv": MultiScaleConv,
    "strip": StripPooling,
    "spp": PyramidPooling,
    "aff": AttentionalFusion,
}

__all__ = ["ATTENTION", "AttentionGate", "ModalityFusion", "SqueezeExcite"]
