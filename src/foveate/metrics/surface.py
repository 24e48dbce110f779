"""Distances between the surfaces of two masks, in mm.

Surface: the voxels of a mask that touch the outside through a face (an edge in 2D), each one point at the
voxel's centre with the same weight; outside the image there is background. Distances are exact Euclidean ones
in mm from each surface voxel to the nearest surface voxel of the other mask. Maier-Hein et al., "Metrics
reloaded" (Nature Methods 2024), describe the measures; Nikolov et al. 2018 (arXiv:1809.04430) introduced the
normalised surface Dice. Their implementation weighs surface elements between voxels by area; this one counts
voxels, as MONAI does by default, so numbers agree with MONAI and differ a little from DeepMind's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

# Spacings come out of affines with rounding; a distance of exactly the tolerance must not fall out by 1e-7 mm.
_ROUNDING = 1e-5


class SurfaceScores(NamedTuple):
    """hd95, asd: in the unit of the spacing; nsd in [0, 1]."""

    hd95: float
    asd: float
    nsd: float


def surface_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], tolerance: float
) -> SurfaceScores:
    """HD95, average symmetric surface distance and normalised surface Dice of two masks.

    prediction, reference: bool ``[*S]``, neither empty. spacing: mm per axis. tolerance: mm.
    HD95 is the larger of the two directed 95th percentiles; the average distance is over both surfaces
    together; the surface Dice is the share of both surfaces within the tolerance of the other.
    Raises ValueError when a mask is empty: what a missing structure costs is the caller's policy.
    """
    there, back = surface_distances(prediction, reference, spacing)
    both = np.concatenate([there, back])
    return SurfaceScores(
        hd95=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        asd=float(both.mean(dtype=np.float64)),
        nsd=float(np.mean(both <= tolerance * (1 + _ROUNDING))),
    )


def surface_distances(first: np.ndarray, second: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Distances from each surface voxel of ``first`` to the surface of ``second``, and the other way: float64 1-D.

    first, second: bool ``[*S]``, 2D or 3D. An axis of length one is dropped: a slice has an outline, not a
    surface on which every voxel lies. Raises ValueError when the shapes differ or a mask is empty.
    """
    if first.shape != second.shape or len(spacing) != first.ndim:
        raise ValueError(f"shapes {first.shape} and {second.shape} with {len(spacing)} spacings do not fit")
    box = union_box(first, second)
    if box is None or not first[box].any() or not second[box].any():
        raise ValueError("a mask is empty: it has no surface")
    long = [axis for axis, length in enumerate(first.shape) if length > 1] or [0]
    flat = tuple(axis for axis in range(first.ndim) if axis not in long)
    size = np.asarray(spacing, dtype=np.float64)[long]
    edges = [surface(mask[box].squeeze(flat)) for mask in (first, second)]
    return _nearest(edges[0], edges[1], size), _nearest(edges[1], edges[0], size)


def _nearest(edge: np.ndarray, other: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Distance (unit of ``size``) of each True voxel of ``edge`` to the nearest True voxel of ``other``: 1-D.

    Where the masks agree roughly, nearly every distance is a few voxels. So the neighbouring offsets are
    looked up in order of their length first, and only what is still open after those asks a tree.
    """
    offsets, lengths = _ball(size)
    reach = np.abs(offsets).max(axis=0)
    padded = np.pad(other, [(int(r), int(r)) for r in reach])  # so that no offset wraps round
    points = np.argwhere(edge)  # [surface voxels, axes]
    steps = offsets @ (np.array(padded.strides) // padded.itemsize)
    near, at = padded.reshape(-1), np.ravel_multi_index((points + reach).T, padded.shape)
    distance = np.empty(len(points))
    open_ = np.arange(len(points))
    for step, length in zip(steps, lengths, strict=True):
        hit = near[at + step]
        distance[open_[hit]] = length
        open_, at = open_[~hit], at[~hit]
        if open_.size == 0:
            return distance
    tree = cKDTree(np.argwhere(other) * size)
    distance[open_] = tree.query(points[open_] * size)[0]
    return distance


def _ball(size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxel offsets within a ball of about 400 voxels and their lengths, shortest first: ``[n, axes]``, ``[n]``."""
    axes = len(size)
    volume = 400 * float(np.prod(size))
    radius = {1: volume / 2, 2: (volume / np.pi) ** 0.5, 3: (volume * 3 / (4 * np.pi)) ** (1 / 3)}[axes]
    reach = (radius / size).astype(int)
    grid = np.indices(2 * reach + 1).reshape(axes, -1).T - reach  # [candidates, axes]
    lengths = np.linalg.norm(grid * size, axis=1)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= radius]
    return grid[order], lengths[order]


def surface(mask: np.ndarray) -> np.ndarray:
    """The voxels of ``mask`` (bool ``[*S]``) with a face neighbour outside it; beyond the array lies background."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        shifted, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        kept[1:] &= shifted[:-1]
        kept[:-1] &= shifted[1:]
        kept[0] = False
        kept[-1] = False
    return mask & ~inside


def union_box(first: np.ndarray, second: np.ndarray) -> tuple[slice, ...] | None:
    """Smallest box that holds both masks (bool ``[*S]``), or None when both are empty."""
    box = []
    for axis in range(first.ndim):
        others = tuple(other for other in range(first.ndim) if other != axis)
        hit = np.flatnonzero(first.any(axis=others) | second.any(axis=others))
        if hit.size == 0:
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Length of the image's diagonal in mm: the distance charged for a structure that is missing."""
    return float(np.linalg.norm(np.asarray(shape, dtype=float) * np.asarray(spacing, dtype=float)))
