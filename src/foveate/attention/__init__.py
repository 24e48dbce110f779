"""Attention blocks by the name they have on the command line.

Contract: ``Block(channels, spatial_dims)``. ``forward(x)`` keeps the shape ``[B, C, *S]``, S two- or
three-dimensional. A block that joins two features says ``inputs = 2`` and takes ``forward(x, other)``.
``attention(...)`` takes what forward takes and returns the weights that forward multiplies with: ``[B, 1, *S]``
for a spatial block (its map in image space, once resized), ``[B, C, 1, ...]`` for a channel block.
"""

from torch import nn

from foveate.attention.gate import AttentionGate
from foveate.attention.squeeze_excite import SqueezeExcite

ATTENTION: dict[str, type[nn.Module]] = {
    "gate": AttentionGate,
    "squeeze_excite": SqueezeExcite,
}

__all__ = ["ATTENTION", "AttentionGate", "SqueezeExcite"]
