"""Augmentation as batched tensor code: sample the parameters, then apply them.

Parameters are plain tensors drawn from a seeded generator on the CPU, so that every view can be replayed,
logged or applied to another tensor. Geometry is one sampling grid per image, through which the image and its
label are read once. Intensity changes follow, in the order in which a scanner would cause them.

Coordinates are those of ``torch.nn.functional.grid_sample`` with ``align_corners=False``, scaled by physical
size, so that a rotation stays a rotation on patches of unequal sides and anisotropic voxels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from foveate.config import AugmentConfig
from foveate.layers import present

_LINEAR = {2: "bilinear", 3: "trilinear"}


@dataclass
class Geometry:
    """Where each output voxel is read from. B images, D dimensions; axes in array order.

    matrix: ``[B, D, D]``, output offset from the patch centre (mm) -> input offset (mm).
    shift: ``[B, D]`` mm. control: ``[B, D, *coarse]`` elastic displacement in mm at coarse control points.
    """

    matrix: Tensor
    shift: Tensor
    control: Tensor


@dataclass
class Intensity:
    """What happens to the grey values. Every field ``[B]`` unless said; the neutral value means "not applied".

    blur, low_resolution: standard deviation in voxels (0), voxel-size factor (1). gain, offset: contrast (1) and
    brightness (0) in standard deviations. gamma (1). noise: standard deviation (0). bias: ``[B, *coarse]`` log gain.
    """

    blur: Tensor
    low_resolution: Tensor
    gain: Tensor
    offset: Tensor
    gamma: Tensor
    noise: Tensor
    bias: Tensor
    noise_seed: int


def sample_geometry(
    config: AugmentConfig,
    batch: int,
    size_mm: Sequence[float],
    mirror_axes: Sequence[int],
    generator: Generator,
) -> Geometry:
    """Random affine and elastic geometry for ``batch`` patches of ``size_mm`` per axis."""
    dims = len(size_mm)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    def chance(p: float, *shape: int) -> Tensor:
        return (torch.rand(batch, *shape, generator=generator) < p).float()

    limit = math.radians(config.rotation_degrees)
    planes = [(0, 1), (0, 2), (1, 2)][: 1 if dims == 2 else 3]
    on = chance(config.affine_p, 1)  # [B, 1]
    angles = uniform(-limit, limit, len(planes)) * on
    matrix = torch.eye(dims).expand(batch, dims, dims)
    for i, (a, b) in enumerate(planes):
        turn = torch.eye(dims).repeat(batch, 1, 1)
        cos, sin = angles[:, i].cos(), angles[:, i].sin()
        turn[:, a, a], turn[:, b, b], turn[:, a, b], turn[:, b, a] = cos, cos, -sin, sin
        matrix = matrix @ turn
    # Zooming in and out by the same factor is equally likely.
    zoom = torch.exp(uniform(-1, 1, dims) * math.log1p(config.scale) * on)
    for axis in mirror_axes:
        zoom[:, axis] *= 1 - 2 * chance(0.5)
    size = torch.tensor(size_mm, dtype=torch.float32)
    shift = uniform(-1, 1, dims) * config.shift * size * on
    coarse = [5 if dims == 3 else 7] * dims
    displacement = torch.randn(batch, dims, *coarse, generator=generator).clamp(-2.5, 2.5)
    strength = uniform(0, 1) * config.elastic * float(size.min()) * chance(config.elastic_p)
    control = displacement * strength.reshape(batch, *[1] * (dims + 1))
    return Geometry(matrix * zoom[:, None, :], shift, control)


def sample_intensity(config: AugmentConfig, batch: int, dims: int, generator: Generator) -> Intensity:
    """Random intensity changes for ``batch`` images."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=generator) * (high - low) + low

    def apply_with(p: float, value: Tensor, neutral: float) -> Tensor:
        on = torch.rand(batch, generator=generator) < p
        return torch.where(on, value, torch.full_like(value, neutral))

    gamma = torch.exp(uniform(-1, 1) * math.log(1.5))
    bias = torch.randn(batch, *[4] * dims, generator=generator) * 0.25
    bias *= apply_with(config.bias_p, torch.ones(batch), 0.0).reshape(batch, *[1] * dims)
    return Intensity(
        blur=apply_with(config.blur_p, uniform(0.4, 1.2), 0.0),
        low_resolution=apply_with(config.low_resolution_p, uniform(1.2, 2.0), 1.0),
        gain=apply_with(config.contrast_p, uniform(0.7, 1.4), 1.0),
        offset=apply_with(config.brightness_p, uniform(-0.3, 0.3), 0.0),
        gamma=apply_with(config.gamma_p, gamma, 1.0),
        noise=apply_with(config.noise_p, uniform(0.0, config.noise), 0.0),
        bias=bias,
        noise_seed=int(torch.randint(2**62, (1,), generator=generator)),
    )


def sampling_grid(geometry: Geometry, patch: Sequence[int], region: Sequence[int], spacing: Sequence[float]) -> Tensor:
    """Grid ``[B, *patch, D]`` for grid_sample: where in a region ``[B, C, *region]`` each patch voxel is read.

    Patch and region share their centre; spacing is in mm.
    """
    device, (batch, dims) = geometry.matrix.device, geometry.shift.shape
    # grid_sample wants half the region as its unit and the last axis first. Both are put into the few numbers that
    # describe the geometry, so that the full-size work is one product and one sum.
    unit = 2 / torch.tensor([n * s for n, s in zip(region, spacing, strict=True)], device=device)
    matrix = (geometry.matrix * unit[:, None]).flip(1)
    shift = (geometry.shift * unit).flip(1)
    axes = [
        (torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2) * s
        for n, s in zip(patch, spacing, strict=True)
    ]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(dims, -1)  # [D, N] mm
    grid = torch.baddbmm(shift[:, :, None], matrix, offsets.expand(batch, -1, -1)).reshape(batch, dims, *patch)
    if geometry.control.any():
        control = (geometry.control * unit.reshape(-1, *[1] * dims)).flip(1)
        grid += F.interpolate(control, size=tuple(patch), mode=_LINEAR[dims], align_corners=True)
    return grid.movedim(1, -1)


def warp(image: Tensor, grid: Tensor) -> Tensor:
    """Image ``[B, C, *region]`` read linearly at ``grid``: ``[B, C, *patch]``; zero (the mean) outside."""
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def warp_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Labels ``[B, *region]`` (uint8) read at the nearest voxel: ``[B, *patch]``; background outside."""
    warped = F.grid_sample(labels[:, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return warped[:, 0].to(labels.dtype)


def change_intensity(x: Tensor, p: Intensity) -> Tensor:
    """Images ``[B, C, *S]`` of about zero mean and unit deviation -> the same, changed as ``p`` says. A missing channel
    (NaN) stays missing and changes nothing for the others."""
    dims = x.ndim - 2
    shape = (-1, *[1] * (dims + 1))
    if p.blur.any():
        x = _per_image(x, p.blur > 0, p.blur, _blur)
    if (p.low_resolution > 1).any():
        x = _per_image(x, p.low_resolution > 1, p.low_resolution, _low_resolution)
    if p.bias.any():
        field = F.interpolate(p.bias[:, None], size=x.shape[2:], mode=_LINEAR[dims], align_corners=True)
        low = x.amin(dim=tuple(range(2, x.ndim)), keepdim=True)
        x = (x - low) * field.exp() + low  # gain acts on signal, which has its zero at the darkest value
    x = x * p.gain.reshape(shape) + p.offset.reshape(shape)
    if (p.gamma != 1).any():
        x = _per_image(x, p.gamma != 1, p.gamma, _gamma)
    if p.noise.any():
        source = torch.Generator(x.device).manual_seed(p.noise_seed)
        x = x + torch.randn(x.shape, generator=source, device=x.device) * p.noise.reshape(shape)
    return x


def cut_out(x: Tensor, p: float, generator: Generator) -> Tensor:
    """Images ``[B, C, *S]``, each with probability ``p`` with a random box hidden (0, the mean): of up to half of every
    side, its middle anywhere (DeVries & Taylor 2017)."""
    hidden = torch.ones(len(x), 1, *[1] * (x.ndim - 2), dtype=torch.bool)
    for axis, n in enumerate(x.shape[2:]):
        middle, half = torch.rand(2, len(x), generator=generator) * torch.tensor([[n], [n / 4]])
        inside = (torch.arange(n) + 0.5 - middle[:, None]).abs() < half[:, None]
        hidden = hidden & inside.reshape(len(x), *[-1 if a == axis + 1 else 1 for a in range(x.ndim - 1)])
    hidden &= (torch.rand(len(x), generator=generator) < p).reshape(-1, *[1] * (x.ndim - 1))
    return x.masked_fill(hidden.to(x.device) & ~x.isnan(), 0.0)


def drop_modalities(x: Tensor, p: float, generator: Generator) -> Tensor:
    """Images ``[B, M, *S]``, each with probability ``p`` with a random part of its modalities, the others NaN.

    Every part but the empty one of those that are there is equally likely, all of them too, as in mmFormer (MICCAI
    2022), where p is 1.
    """
    there = present(x)  # [B, M]
    drawn = torch.rand(2, len(x), generator=generator).to(x.device)
    parts = 2 ** there.sum(1) - 1
    # The bits of a number from 1 to 2^n - 1 say which of the n that are there stay.
    part = torch.where(drawn[0] < p, 1 + (drawn[1] * parts).long(), parts)
    stays = there & ((part[:, None] >> (there.cumsum(1) - 1).clamp_min(0)) % 2 == 1)
    return torch.where(stays.reshape(*stays.shape, *[1] * (x.ndim - 2)), x, torch.nan)


def to_device(params: Geometry | Intensity, device: torch.device) -> None:
    """Move every tensor of the parameters to the training device, in place."""
    for name, value in vars(params).items():
        if isinstance(value, Tensor):
            setattr(params, name, value.to(device, non_blocking=True))


def _per_image(x: Tensor, chosen: Tensor, values: Tensor, change: Callable[[Tensor, float], Tensor]) -> Tensor:
    """Apply ``change(image [1, C, *S], value)`` to the chosen images only: most are left alone. It sees the channels
    that are there: a missing one has no part in what an image's channels share, such as the range of gamma."""
    images, there = list(x.split(1)), present(x)
    for i in chosen.nonzero()[:, 0].tolist():
        changed = change(images[i][:, there[i]], float(values[i]))
        images[i] = images[i].index_copy(1, there[i].nonzero()[:, 0], changed)
    return torch.cat(images)


def _blur(x: Tensor, sigma: float) -> Tensor:
    radius = max(1, math.ceil(2.5 * sigma))
    t = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (t / sigma) ** 2)
    kernel = kernel / kernel.sum()
    dims, channels = x.ndim - 2, x.shape[1]
    convolve = F.conv2d if dims == 2 else F.conv3d
    for axis in range(dims):
        shape = [1] * dims
        shape[axis] = -1
        padding = [0] * dims
        padding[axis] = radius
        weight = kernel.reshape(1, 1, *shape).expand(
            channels, 1, *[kernel.numel() if a == axis else 1 for a in range(dims)]
        )
        x = convolve(x, weight, padding=padding, groups=channels)
    return x


def _low_resolution(x: Tensor, factor: float) -> Tensor:
    dims = x.ndim - 2
    size = [max(1, round(n / factor)) for n in x.shape[2:]]
    # Linear on the way down too: the nearest voxel is half a voxel off at a factor of two, and the label stays.
    small = F.interpolate(x, size=size, mode=_LINEAR[dims], align_corners=False)
    return F.interpolate(small, size=x.shape[2:], mode=_LINEAR[dims], align_corners=False)


def _gamma(x: Tensor, gamma: float) -> Tensor:
    low, high = x.amin(), x.amax()
    spread = (high - low).clamp_min(1e-6)
    changed = ((x - low) / spread) ** gamma * spread + low
    # Gamma changes contrast, not level: mean and deviation are restored.
    return (changed - changed.mean()) / changed.std().clamp_min(1e-6) * x.std() + x.mean()
