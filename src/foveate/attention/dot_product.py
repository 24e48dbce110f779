"""Scaled dot-product attention, the way between images and tokens, and what the blocks of queries and keys share.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, eq. 1. No departure. Tokens are the voxels of one
image, never those of a batch; the scale is that of the keys; what is masked has no influence at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.errors import refuse

HEAD = 16  # channels of an attention head; more where the width cannot be divided so
GAMMA = 0.1  # of x + gamma * attention(x) at first: near the identity, and yet every parameter has a gradient
MAX_TOKENS = 8192  # of full attention: beyond, its 2^26 pairs of voxels take most of a training step
PART = 2**22  # weights that a map holds at once


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d_k) + mask) v, with memory linear in the tokens where the device has a fused kernel.

    q ``[B, h, Nq, d_k]``, k ``[B, h, Nk, d_k]``, v ``[B, h, Nk, d_v]`` -> ``[B, h, Nq, d_v]``. mask: broadcastable to
    ``[B, h, Nq, Nk]``, true where a query sees a key; or a number added to each score, -inf where it does not. What
    is not seen has no influence, even NaN or infinity; a query that sees NaN or infinity gets NaN, one that sees
    nothing gets 0.
    """
    if mask is None:
        return _fused(q, k, v, None)
    seen = mask if mask.dtype == torch.bool else mask != -torch.inf
    blind = ~seen.any(-1, keepdim=True)  # [..., Nq, 1]; a softmax over nothing would be NaN, and so its gradient
    broken = ~(k.isfinite().all(-1) & v.isfinite().all(-1))[..., None, :]  # [B, h, 1, Nk]; 0 times NaN is NaN
    q = q.masked_fill(blind, 0)
    k, v = (x.masked_fill(broken.mT, 0) for x in (k, v))
    mask = seen | blind if mask.dtype == torch.bool else mask.masked_fill(blind, 0).to(q.dtype)
    joined = _fused(q, k, v, mask)
    return joined.masked_fill((seen & broken).any(-1, keepdim=True), torch.nan).masked_fill(blind, 0)


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """torch's attention; zeros behind the narrower of keys and values, as fused kernels want both of one width."""
    scale, width = q.shape[-1] ** -0.5, v.shape[-1]
    wider = max(q.shape[-1], width)
    q, k, v = (x if x.shape[-1] == wider else F.pad(x, (0, wider - x.shape[-1])) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)[..., :width]


def received(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """The attention that each key receives, summed over queries: ``[B, h, Nk]``, in float32.

    Shapes and mask as those of ``scaled_dot_product``. Computed for a few queries at a time, so that all weights are
    never held at once.
    """
    q = q.float() * q.shape[-1] ** -0.5
    total = torch.zeros(*k.shape[:3], device=k.device)
    rows = max(PART // total.numel(), 1)
    for start in range(0, q.shape[2], rows):
        part = slice(start, start + rows)
        scores = q[:, :, part] @ k.float().mT
        if mask is not None:
            seen = mask[..., part, :] if mask.shape[-2] > 1 else mask
            scores = scores.masked_fill(~seen, -torch.inf) if mask.dtype == torch.bool else scores + seen
        weights = scores.softmax(-1)
        total = total + weights.masked_fill((scores == -torch.inf).all(-1, keepdim=True), 0).sum(2)
    return total


def to_tokens(x: Tensor) -> Tensor:
    """``[B, C, *S] -> [B, N, C]``, a token for every voxel."""
    return x.flatten(2).mT


def to_image(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """``[B, N, C] -> [B, C, *S]``, the inverse of ``to_tokens``."""
    return tokens.mT.unflatten(2, tuple(size))


def head_count(channels: int) -> int:
    """How many heads of at least ``HEAD`` channels divide the channels evenly; one where there are fewer."""
    return next(n for n in range(max(channels // HEAD, 1), 0, -1) if channels % n == 0)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """``[B, N, C] -> [B, h, N, C / h]``."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(tokens: Tensor) -> Tensor:
    """``[B, h, N, C / h] -> [B, N, C]``, the inverse of ``split_heads``."""
    return tokens.transpose(1, 2).flatten(2)


def check_tokens(where: str, block: str, tokens: int, limit: int) -> None:
    """Raises InputError where a block that joins every voxel with every other is given too many."""
    if tokens > limit:
        fix = "Take it to a coarser grid, such as the slot bottleneck, or take linear, criss_cross, axial or window."
        raise refuse("configuration", where, f"{block} among {tokens} voxels", f"at most {limit} voxels", fix)
