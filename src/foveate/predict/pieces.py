"""Structures that are of one piece, as labels show them, and predictions that have them in several.

Keeping the largest piece where the anatomy has one is what nnU-Net does after prediction (Isensee et al., Nature
Methods 2021), there where cross-validation gains by it. Here labels are asked in place of scores, and what is cut off
is left open: that it is no part of the structure does not say what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from scipy import ndimage

from foveate.cohort.cohort import IGNORE

Values = int | tuple[int, ...]

CRUMBS = 0.01  # share of a structure that a slip of the mouse, or resampling, may have cut off


def of_one_piece(labels: Iterable[np.ndarray], classes: Mapping[str, Values]) -> dict[str, Values]:
    """Those of ``classes`` that are of one piece, but for crumbs, wherever the label maps show them; each at least
    once. Voxels touch over faces, edges and corners."""
    seen: set[str] = set()
    split: set[str] = set()
    for label in labels:
        for name, values in classes.items():
            sizes = _pieces(label, values)[1]
            if len(sizes):
                seen.add(name)
            if len(sizes) and sizes.max() < (1 - CRUMBS) * sizes.sum():
                split.add(name)
    return {name: values for name, values in classes.items() if name in seen - split}


def open_smaller_pieces(labels: np.ndarray, classes: Mapping[str, Values]) -> np.ndarray:
    """The label map with 255, which teaches nothing, wherever one of ``classes`` lies apart from its largest piece."""
    cleaned = labels.copy()
    for values in classes.values():
        pieces, sizes = _pieces(labels, values)
        if len(sizes) > 1:
            cleaned[(pieces > 0) & (pieces != 1 + sizes.argmax())] = IGNORE
    return cleaned


def _pieces(labels: np.ndarray, values: Values) -> tuple[np.ndarray, np.ndarray]:
    """The number of the piece that each voxel is in, from 1, 0 outside; and the pieces' sizes in voxels."""
    pieces, _ = ndimage.label(np.isin(labels, values), np.ones((3,) * labels.ndim))
    return pieces, np.bincount(pieces.ravel())[1:]
