"""Attention blocks by the name they have on the command line.

Contract: ``Block(channels, spatial_dims)``. ``forward(x)`` keeps the shape ``[B, C, *S]``, S two- or
three-dimensional and of any size. A block that joins two features says ``inputs = 2`` and takes ``forward(x, other)``.
One whose cost grows with the square of the voxels says ``max_tokens``, and refuses more voxels.

A block that can be looked at has ``attention(...)``, which takes what forward takes and returns weights that are not
negative: ``[B, 1, *S]`` (or ``[B, C, *S]``) where they lie in image space, ``[B, C, 1, ...]`` where they weigh
channels. Where ``multiplies`` is true they are what forward multiplies x with. In blocks of queries and keys they are
the attention that each voxel receives, the mean over queries and heads.

``POOLING`` holds what makes one vector of an image; its contract stands in ``pooling``.
"""

from torch import nn

from foveate.attention.axial import Axial
from foveate.attention.criss_cross import CrissCross
from foveate.attention.deformable import Deformable
from foveate.attention.dual import Channel, Position
from foveate.attention.external import ExternalAttention
from foveate.attention.gate import AttentionGate
from foveate.attention.linear import LinearAttention
from foveate.attention.neighbourhood import Neighbourhood
from foveate.attention.non_local import NonLocal
from foveate.attention.paired import EfficientPaired
from foveate.attention.pooling import AttentionPooling, GeneralisedMean, Mean
from foveate.attention.squeeze_excite import SqueezeExcite
from foveate.attention.window import ShiftedWindows

ATTENTION: dict[str, type[nn.Module]] = {
    "gate": AttentionGate,
    "squeeze_excite": SqueezeExcite,
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

__all__ = ["ATTENTION", "POOLING", "AttentionGate", "SqueezeExcite"]
