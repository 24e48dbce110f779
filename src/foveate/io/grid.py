"""How far apart two voxel grids lie."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np


def corner_distance(affine: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """Largest distance in mm between the positions that two 4x4 affines give to a corner voxel of ``shape``."""
    corners = np.array(list(product(*((0, size - 1) for size in shape))), dtype=float)  # [2^D, D]
    difference = np.asarray(affine, dtype=float) - np.asarray(other, dtype=float)
    moved = corners @ difference[:3, : len(shape)].T + difference[:3, 3]  # [2^D, 3]
    return float(np.linalg.norm(moved, axis=1).max())


def tolerance(affine: np.ndarray, dims: int) -> float:
    """Distance in mm below which two grids count as one: a tenth of the smallest voxel side."""
    return 0.1 * float(np.linalg.norm(affine[:3, :dims], axis=0).min())
