"""The one in-memory form of an image or label map, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Volume:
    """An array in the file's own voxel order, with where it lies in space.

    array: ``[C, *S]``, S two- or three-dimensional; float32 for images, an integer type for labels (C = 1).
    affine: 4x4, voxel index -> RAS millimetres (nibabel's convention). Pictures carry the identity: their
        unit is the pixel, and array axes are (row, column).
    path: the (first) file that it came from, if any.
    meta: what a writer needs to give back the same grid (for NIfTI the header), never patient data.
    """

    array: np.ndarray
    affine: np.ndarray
    path: Path | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def dims(self) -> int:
        """Number of spatial dimensions, 2 or 3."""
        return self.array.ndim - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape S."""
        return tuple(self.array.shape[1:])

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size per spatial axis in mm (pixels for pictures)."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, : self.dims], axis=0))
