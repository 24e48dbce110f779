"""Attention blocks by the name they have on the command line.

Contract: ``Block(channels, spatial_dims)``. ``forward(x)`` keeps the shape ``[B, C, *S]``, S two- or
three-dimensional and of any size. A block that joins two features says ``inputs = 2`` and takes ``forward(x, other)``.
One whose cost grows with the square of the voxels says ``max_tokens``, and refuses more voxels.

A block that can be looked at has ``attention(...)``, which takes what forward takes and returns weights that are not
negative: ``[B, 1, *S]`` (or ``[B, C, *S]``) where they lie in image space, ``[B, C, 1, ...]`` where they weigh
channels. Where ``multiplies`` is true they are what forward multiplies x with. In blocks of queries and keys they are
the attention that each voxel receives, the mean over queries and heads.

``ModalityFusion`` sits in no slot, as it takes the features of all modalities and which of them are present; its
attention is ``[B, M, *S]``, a map for each of its ``modalities``, which are called by their names. ``POOLING`` holds
what makes one vector of an image; its contract stands in ``pooling``.
"""

from torch import nn

from foveate.attention.aff import AttentionalFusion
from foveate.attention.axial import Axial
from foveate.attention.cbam import ConvBlockAttention
from foveate.attention.coordinate import CoordinateAttention
from foveate.attention.criss_cross import CrissCross
from foveate.attention.deformable import Deformable
from foveate.attention.dual import Channel, Position
from foveate.attention.eca import EfficientChannelAttention
from foveate.attention.external import ExternalAttention
from foveate.attention.gate import AttentionGate
from foveate.attention.global_context import GlobalContext
from foveate.attention.large_kernel import LargeKernelAttention
from foveate.attention.linear import LinearAttention
from foveate.attention.modality_fusion import ModalityFusion
from foveate.attention.multi_scale_conv import MultiScaleConv
from foveate.attention.neighbourhood import Neighbourhood
from foveate.attention.non_local import NonLocal
from foveate.attention.paired import EfficientPaired
from foveate.attention.pooling import AttentionPooling, GeneralisedMean, Mean
from foveate.attention.scse import SpatialChannelSqueezeExcite
from foveate.attention.selective_kernel import SelectiveKernel
from foveate.attention.spp import PyramidPooling
from foveate.attention.squeeze_excite import SqueezeExcite
from foveate.attention.strip import StripPooling
from foveate.attention.window import ShiftedWindows

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
    "non_local": NonLocal,
    "position": Position,
    "channel": Channel,
    "criss_cross": CrissCross,
    "axial": Axial,
    "linear": LinearAttention,
    "external": ExternalAttention,
    "window": ShiftedWindows,
    "neighbourhood": Neighbourhood,
    "deformable": Deformable,
    "epa": EfficientPaired,
}

POOLING: dict[str, type[nn.Module]] = {
    "mean": Mean,
    "gem": GeneralisedMean,
    "attention": AttentionPooling,
}

__all__ = ["ATTENTION", "POOLING", "AttentionGate", "ModalityFusion", "SqueezeExcite"]
