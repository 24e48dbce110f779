"""Random changes of images and features ``[B, C, *S]`` that several methods ask for; 2D and 3D by the same code.

Every one draws from the generator that it is given, which lives on the device of ``x``, and leaves ``x`` as it was.
Source: Ouali et al., "Semi-Supervised Semantic Segmentation with Cross-Consistency Training", CVPR 2020, for features.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def channel_dropout(x: Tensor, generator: Generator, p: float = 0.5) -> Tensor:
    """Whole channels of each image to zero with probability ``p``, the others times 1 / (1 - p) (Tompson 2015)."""
    shape = (*x.shape[:2], *[1] * (x.ndim - 2))
    kept = torch.rand(shape, generator=generator, device=x.device) >= p
    return x * (kept / (1 - p)).to(x.dtype)


def feature_noise(x: Tensor, generator: Generator, limit: float = 0.3) -> Tensor:
    """Every value times 1 + n, n uniform in [-limit, limit]: noise in proportion to the feature."""
    noise = torch.rand(x.shape, generator=generator, device=x.device) * 2 - 1
    return x * (1 + limit * noise).to(x.dtype)


def feature_drop(x: Tensor, generator: Generator, low: float = 0.6, high: float = 0.9) -> Tensor:
    """The most active places of each image to zero: those whose mean over channels, scaled to [0, 1] within the image,
    exceeds a threshold drawn from [low, high]."""
    shape = (len(x), *[1] * (x.ndim - 1))
    activity = x.detach().float().mean(1, keepdim=True)  # [B, 1, *S]
    axes = tuple(range(1, x.ndim))
    least, most = activity.amin(axes, keepdim=True), activity.amax(axes, keepdim=True)
    limit = low + (high - low) * torch.rand(shape, generator=generator, device=x.device)
    return x * (activity <= least + limit * (most - least))


def clipped_noise(x: Tensor, generator: Generator, deviation: float = 0.1) -> Tensor:
    """Gaussian noise of ``deviation`` (images have a deviation of about 1), cut off at twice that (Yu 2019)."""
    noise = torch.randn(x.shape, generator=generator, device=x.device) * deviation
    return x + noise.clamp(-2 * deviation, 2 * deviation).to(x.dtype)
