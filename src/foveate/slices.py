"""What pictures show of an image: which slices, how they lie, the letters at their sides, grey or colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

COLOURS = ("red", "green", "blue")  # channels of one picture file

SIDES = ((0.0, 0.5), (1.0, 0.5), (0.5, 0.0), (0.5, 1.0))  # left, right, top, bottom: (x, y) of a picture, y downwards


@dataclass(frozen=True)
class Cut:
    """A slice to show. title: for people. aspect: height of its pixels over their width. marks: letters for left,
    right, top and bottom, None where sides are not known. mm: size of a voxel across the slice."""

    title: str
    aspect: float
    marks: tuple[str, str, str, str] | None
    mm: float
    axis: int | None
    index: int
    field: tuple[slice, ...]
    affine: np.ndarray | None

    def of(self, array: np.ndarray) -> np.ndarray:
        """The slice ``[rows, columns]`` of an array ``[*S]`` of the scan; a picture, in colours too, as it is."""
        if self.axis is None:
            return array
        array = array if self.affine is None else _to_ras(array, self.affine)
        return _plane(array[self.field], self.axis, self.index, self.affine is not None)

    def boxes(self, boxes: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, list[int]]:
        """Boxes ``[N, 2 n]`` in voxels of an array of that shape: those that the middle of the slice lies in,
        ``[M, 4]`` in pixels of the slice, and their numbers."""
        if self.axis is None:
            return boxes, [*range(len(boxes))]
        low, high, size = boxes[:, :3], boxes[:, 3:], np.array(shape)
        if self.affine is not None:
            axes, ways = nib.orientations.io_orientation(self.affine).T
            low, high = np.where(ways < 0, size - high, low), np.where(ways < 0, size - low, high)
            order = np.argsort(axes)
            low, high, size = low[:, order], high[:, order], size[order]
        start, end = np.array([part.indices(length)[:2] for part, length in zip(self.field, size, strict=True)]).T
        here = np.flatnonzero((low[:, self.axis] <= self.index + 0.5) & (self.index + 0.5 < high[:, self.axis]))
        plane = [axis for axis in (2, 1, 0) if axis != self.axis]  # rows, columns
        low, high, start, end = low[here][:, plane], high[here][:, plane], start[plane], end[plane]
        sides = (low - start, high - start) if self.affine is None else (end - high, end - low)
        return np.concatenate(sides, axis=1), here.tolist()


def cuts(
    shown: np.ndarray, structures: np.ndarray, spacing: Sequence[float], affine: np.ndarray | None = None
) -> list[Cut]:
    """Axial, coronal and sagittal slice where the mask ``shown`` is largest, around all ``structures``; a picture as it
    is.

    spacing: mm per axis. affine: 4x4 to RAS mm; with it slices lie as radiologists look at them, and their sides are
    known. Without it they lie in the order of the axes.
    """
    if shown.ndim == 2:
        return [Cut("", 1.0, None, 1.0, None, 0, (), None)]
    if affine is not None:
        shown, structures = (_to_ras(array, affine) for array in (shown, structures))
        spacing = _ras_spacing(affine)
    field = _field(structures, spacing)
    names = ("sagittal", "coronal", "axial") if affine is not None else ("axis 1", "axis 2", "axis 3")
    sides = (("A", "P", "S", "I"), ("R", "L", "S", "I"), ("R", "L", "A", "P"))
    found = []
    for axis in (2, 1, 0):
        across = tuple(other for other in range(3) if other != axis)
        index = _best_slice(shown, axis)
        around = tuple(slice(None) if other == axis else field[other] for other in range(3))
        aspect = spacing[across[1]] / spacing[across[0]]
        title = f"{names[axis]}, slice {index + 1} of {shown.shape[axis]}"
        marks = sides[axis] if affine is not None else None
        found.append(Cut(title, aspect, marks, float(spacing[axis]), axis, index, around, affine))
    return found


def best_cut(
    shown: np.ndarray, spacing: Sequence[float], affine: np.ndarray | None, structures: np.ndarray | None = None
) -> Cut:
    """The slice of the three of ``cuts`` that lies across the thickest voxels, so that its own pixels are finest: axial
    where voxels are cubes. structures: by default ``shown`` itself."""
    found = cuts(shown, shown if structures is None else structures, spacing, affine)
    return max(found, key=lambda cut: round(cut.mm, 3))


def to_draw(array: np.ndarray, channels: Sequence[str]) -> np.ndarray:
    """What is drawn of an image ``[C, *S]``: the colours of a picture that has such channels, uint8
    ``[rows, columns, 3]``, else the first channel that is there, ``[*S]``."""
    if tuple(channels) == COLOURS:
        return grey_or_colour(array)
    first: np.ndarray = next(channel for channel in array if not np.isnan(channel).any())
    return first


def grey_or_colour(array: np.ndarray) -> np.ndarray:
    """``[C, rows, columns]`` -> uint8 ``[rows, columns, 3]``: three channels of bytes as they are; three others, or the
    first of those that are there, between their percentiles 0.5 and 99.5."""
    if len(array) == 3 and array.min() >= 0 and 1 < array.max() <= 255:
        return array.transpose(1, 2, 0).astype(np.uint8)
    there = np.stack([channel for channel in array if np.isfinite(channel).all()]).astype(np.float32)
    shown = there if len(there) == 3 else there[:1].repeat(3, axis=0)
    low, high = np.percentile(shown, (0.5, 99.5))
    levels: np.ndarray = np.clip((shown - low) / max(high - low, 1e-6), 0, 1) * 255
    return levels.astype(np.uint8).transpose(1, 2, 0)


def _to_ras(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return np.asarray(nib.orientations.apply_orientation(array, nib.orientations.io_orientation(affine)))


def _ras_spacing(affine: np.ndarray) -> list[float]:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    targets = nib.orientations.io_orientation(affine)[:, 0].astype(int)
    return [float(lengths[int(np.flatnonzero(targets == axis)[0])]) for axis in range(3)]


def _field(mask: np.ndarray, spacing: Sequence[float]) -> list[slice]:
    """The part of each axis to show: the structures with as much again around them, at least 20 mm."""
    out = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        first, last = (int(hit[0]), int(hit[-1]) + 1) if hit.size else (0, mask.shape[axis])
        margin = max((last - first) // 2, round(20 / spacing[axis]))
        out.append(slice(max(0, first - margin), min(mask.shape[axis], last + margin)))
    return out


def _best_slice(mask: np.ndarray, axis: int) -> int:
    areas = mask.sum(axis=tuple(other for other in range(3) if other != axis))
    largest = np.flatnonzero(areas == areas.max())  # every slice when there is no structure
    return int(largest[len(largest) // 2])


def _plane(array: np.ndarray, axis: int, index: int, radiological: bool) -> np.ndarray:
    """One slice as a picture ``[rows, columns]``: the first remaining axis runs right, the second up."""
    plane = np.take(array, index, axis=axis).T  # [second, first]
    # In RAS the axes grow to the right, front and top. Radiologists see right and front on the left, top above.
    return plane[::-1, ::-1] if radiological else plane
