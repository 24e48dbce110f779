"""Structures that are of one piece, as labels show them, and predictions that have them in several.

Keeping the largest piece where the anatomy has one is what nnU-Net does after prediction (Isensee et al., Nature
Methods 2021), there where cross-validation gains by it. Here labels are asked in place of scores: few labels leave no
cases to score. A pseudo-label is left open where it is cut: to be no part of the structure does not say what it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from foveate.cohort.cohort import IGNORE

Values = int | tuple[int, ...]

FEWEST = 4  # labelled cases that must show a structure, and in one piece, before it is taken to be of one
MOST = 100  # that are looked at
_CORNERS = {dims: np.ones((3,) * dims, bool) for dims in (2, 3)}  # voxels touch over faces, edges and corners
RIVAL = 0.5  # share of the largest piece from which another is no crumb: by size nobody can tell which is the structure
CRUMBS = 0.01  # share of a structure that a slip of the mouse, or resampling, may have cut off


def of_one_piece(labels: Iterable[np.ndarray], classes: Mapping[str, Values]) -> dict[str, Values]:
    """Those of ``classes`` that are of one piece, but for crumbs, wherever the first MOST label maps show them, where
    at least FEWEST of these do. Voxels touch over faces, edges and corners."""
    seen = dict.fromkeys(classes, 0)
    for label in itertools.islice(labels, MOST):
        for name in list(seen):
            box = _around(np.isin(label, classes[name]))  # a part of a large scan, for every class
            sizes = _pieces(label[box], classes[name])[1]
            seen[name] += bool(len(sizes))
            if len(sizes) and sizes.max() < (1 - CRUMBS) * sizes.sum():
                del seen[name]
    return {name: classes[name] for name, count in seen.items() if count >= FEWEST}


class Tidied(NamedTuple):
    """A label map ``[*S]`` without the smaller pieces of some structures. left_out: names of those that lost a piece.
    rivals: names of those of which several are left, as none is less than half as large as the largest."""

    labels: np.ndarray
    left_out: list[str]
    rivals: list[str]


def keep_largest_pieces(labels: np.ndarray, classes: Mapping[str, Values]) -> Tidied:
    """The label map with each of ``classes`` in its largest piece alone, and in those that rival it.

    A piece that goes becomes what surrounds it most: background, or the structure in which it lies.
    """
    tidied = Tidied(labels.copy(), [], [])
    for name, values in classes.items():
        box = _around(np.isin(tidied.labels, values))
        part = tidied.labels[box]
        pieces, sizes = _pieces(part, values)
        small = _small(sizes)
        if small.any():
            tidied.left_out.append(name)
        if (~small).sum() > 1:
            tidied.rivals.append(name)
        for number, where in enumerate(ndimage.find_objects(pieces), 1):
            if small[number - 1]:
                near = _wider(where)
                piece = pieces[near] == number
                ring = ndimage.binary_dilation(piece, _CORNERS[labels.ndim]) & ~piece
                part[near][piece] = np.bincount(part[near][ring], minlength=1).argmax()
    return tidied


def open_smaller_pieces(labels: np.ndarray, classes: Mapping[str, Values]) -> np.ndarray:
    """The label map with 255, which teaches nothing, wherever one of ``classes`` lies apart from its largest piece; and
    there too where another rivals it."""
    cleaned = labels.copy()
    for values in classes.values():
        pieces, sizes = _pieces(labels, values)
        if len(sizes) > 1:
            rivals = (~_small(sizes)).sum() > 1
            cleaned[(pieces > 0) & (rivals | (pieces != 1 + sizes.argmax()))] = IGNORE
    return cleaned


def _pieces(labels: np.ndarray, values: Values) -> tuple[np.ndarray, np.ndarray]:
    """The number of the piece that each voxel is in, from 1, 0 outside; and the pieces' sizes in voxels."""
    pieces, _ = ndimage.label(np.isin(labels, values), _CORNERS[labels.ndim])
    return pieces, np.bincount(pieces.ravel(), minlength=1)[1:]


def _small(sizes: np.ndarray) -> np.ndarray:
    """Which pieces do not rival the largest."""
    small: np.ndarray = sizes < RIVAL * sizes.max(initial=0)
    return small


def _around(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds a mask, and a voxel more on every side."""
    axes = range(mask.ndim)
    spans = [np.flatnonzero(mask.any(tuple(other for other in axes if other != axis))) for axis in axes]
    return _wider(tuple(slice(int(span[0]), int(span[-1]) + 1) if len(span) else slice(1, 0) for span in spans))


def _wider(box: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
