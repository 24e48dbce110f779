"""Boxes through the geometry that their image goes through.

An image is read at warped places, so a box goes the inverse way.
A box stands for the ellipsoid that it holds, whose turned outline is tighter than that of the box's corners: a disc
keeps its size however it is turned.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.batches.augment import Geometry

SLIVER = 0.3  # share of a box that has to lie in the patch, else what is left of it teaches nothing
IGNORED = -2  # class of a box that teaches nothing, neither that it is there nor that it is not
PADDING = -1  # class of a row that is no box
DIRECTIONS = 16  # of a circle, at which an outline is looked at
ROUNDS = 5  # of the fixed point that inverts an elastic displacement


def warp_boxes(
    boxes: Tensor, geometry: Geometry, patch: Sequence[int], region: Sequence[int], spacing: Sequence[float]
) -> Tensor:
    """Boxes ``[B, N, 2 n + 1]`` in voxels of a region, class last -> the same in voxels of the patch, clipped to it.

    One that the patch does not show becomes padding, a sliver of one is ignored. Arguments as of ``sampling_grid``.
    """
    step = boxes.new_tensor(list(spacing))
    low, high = boxes[..., :-1].chunk(2, dim=-1)
    middle, half = (low + high) / 2, (high - low) / 2
    outline = middle[:, :, None] + half[:, :, None] * directions(len(patch)).to(boxes)  # [B, N, P, n]
    offsets = (outline - boxes.new_tensor(list(region)) / 2) * step  # mm from the region's centre
    places = invert(offsets.flatten(1, 2), geometry, patch, step).unflatten(1, outline.shape[1:3])
    size = boxes.new_tensor(list(patch))
    places = places / step + size / 2
    low, high = places.amin(2), places.amax(2)
    whole = (high - low).prod(-1)
    low, high = low.clamp_min(0).minimum(size), high.clamp_min(0).minimum(size)
    share = (high - low).prod(-1) / whole.clamp_min(1e-6)
    kinds = boxes[..., -1]
    kinds = torch.where((share < SLIVER) & (kinds >= 0), IGNORED, kinds)
    kinds = torch.where(share > 0, kinds, PADDING)
    return torch.cat([low, high, kinds[..., None]], -1)


def invert(offsets: Tensor, geometry: Geometry, patch: Sequence[int], step: Tensor) -> Tensor:
    """Where in the patch the places ``[B, P, n]`` of a region are read, both in mm from the centre: the x with
    matrix x + shift + displacement(x) = place."""
    places = offsets - geometry.shift[:, None]
    back = torch.linalg.inv(geometry.matrix).transpose(1, 2)  # of rows
    guess = places @ back
    if geometry.control.any():
        # Displacements were interpolated over the patch from corner voxel to corner voxel.
        reach = (offsets.new_tensor(list(patch)) - 1).clamp_min(1) * step / 2
        for _ in range(ROUNDS):
            where = (guess / reach).flip(-1).reshape(len(guess), -1, *[1] * (len(patch) - 1), len(patch))
            moved = F.grid_sample(geometry.control, where, padding_mode="border", align_corners=True)
            guess = (places - moved.flatten(2).transpose(1, 2)) @ back
    return guess


def directions(dims: int) -> Tensor:
    """Unit vectors ``[P, dims]`` spread over a circle or a sphere, those along the axes among them."""
    if dims == 2:
        angles = torch.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS)
        return torch.stack([angles.cos(), angles.sin()], -1)
    corners = torch.tensor(
        [p for p in itertools.product((-2, -1, 0, 1, 2), repeat=dims) if any(p)], dtype=torch.float32
    )
    return torch.unique((corners / corners.norm(dim=1, keepdim=True)).mul(1e6).round(), dim=0) / 1e6


def pad_boxes(boxes: Sequence[Tensor], dims: int) -> Tensor:
    """Boxes of several images ``[N_i, 2 n + 1]`` as one tensor ``[B, N, 2 n + 1]``, N at least 1."""
    padded = torch.full((len(boxes), max([len(rows) for rows in boxes] + [1]), 2 * dims + 1), float(PADDING))
    for row, mine in zip(padded, boxes, strict=True):
        row[: len(mine)] = mine
    return padded
