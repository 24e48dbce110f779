"""Pictures for the report: slices with contours, and training curves, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from foveate.figures import INK, PALETTE, png_bytes

_LINES = {"light": ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "dark": ("#56B4E9", "#E69F00", "#2FD6A3", "#E79FC6")}
_INCHES, _DPI = 3.6, 120


@dataclass(frozen=True)
class View:
    """One picture of a case. title: for people, such as "axial". png: the file's bytes."""

    title: str
    png: bytes


def colours(number: int) -> list[str]:
    """One colour per class; they repeat after seven."""
    return [PALETTE[i % len(PALETTE)] for i in range(number)]


def case_views(
    image: np.ndarray,
    spacing: Sequence[float],
    label: np.ndarray | None,
    prediction: np.ndarray,
    values: Sequence[Sequence[int]],
    affine: np.ndarray | None = None,
) -> list[View]:
    """Slices through the structure with its contours: three planes of a volume, or the picture itself.

    image: ``[*S]`` one channel. spacing: mm per axis. label (None if there is none), prediction: integer
    ``[*S]``. values: the label values that each class joins. affine: 4x4 to RAS mm; with it the volume is
    turned to RAS, shown as radiologists look at it (the patient's right on the left) and marked R and L.
    Without it a volume is shown in the order of its axes, and no side is claimed.
    Each plane is the slice where the label, or without one the prediction, is largest, around all structures.
    """
    maps = [np.asarray(prediction), *([np.asarray(label)] if label is not None else [])]
    wanted = [value for group in values for value in group]
    structures = [np.isin(labels, wanted) for labels in maps]
    # The label, where it shows anything, says where to look: a bad prediction must not lead the eye elsewhere.
    shown = next((mask for mask in reversed(structures) if mask.any()), structures[0])
    window = intensity_window(image)
    views = []
    for cut in cuts(shown, np.logical_or.reduce(structures), spacing, affine):
        drawn = _picture(cut.of(image), [cut.of(labels) for labels in maps], values, cut.aspect, window, cut.marks)
        views.append(View(cut.title, drawn))
    return views


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
        """The slice ``[rows, columns]`` of an array ``[*S]`` of the scan."""
        if self.axis is None:
            return array
        array = array if self.affine is None else _to_ras(array, self.affine)
        return _plane(array[self.field], self.axis, self.index, self.affine is not None)


def cuts(
    shown: np.ndarray, structures: np.ndarray, spacing: Sequence[float], affine: np.ndarray | None = None
) -> list[Cut]:
    """Axial, coronal and sagittal slice where the mask ``shown`` is largest, around all ``structures``; a picture as it
    is. Other arguments: see ``case_views``."""
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


def intensity_window(image: np.ndarray) -> tuple[float, float]:
    """The intensities shown as black and as white."""
    finite = image[np.isfinite(image)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1.0


def _picture(
    image: np.ndarray,
    maps: Sequence[np.ndarray],
    values: Sequence[Sequence[int]],
    aspect: float,
    window: tuple[float, float],
    marks: tuple[str, str, str, str] | None = None,
) -> bytes:
    """maps: prediction, then label if there is one. marks: letters for left, right, top and bottom."""
    height, width = image.shape[0] * aspect, image.shape[1]
    scale = _INCHES / max(height, width)
    figure = Figure(figsize=(max(width * scale, 0.8), max(height * scale, 0.8)), dpi=_DPI, facecolor="black")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect, interpolation="bilinear")
    axes.axis("off")
    styles = (("dashed", 1.6, 3), ("solid", 1.3, 2))
    for labels, (style, thickness, order) in zip(maps, styles, strict=False):
        for group, colour in zip(values, colours(len(values)), strict=True):
            outline(axes, np.isin(labels, list(group)), colour, style, thickness, order)
    mark_sides(axes, marks)
    return png_bytes(figure, colours=160)


def mark_sides(axes: Any, marks: tuple[str, str, str, str] | None) -> None:
    """Letters at the left, right, top and bottom of a picture."""
    # At the middle of each side, eight points inwards, however flat the picture is.
    for letter, (x, y) in zip(marks or (), ((0, 0.5), (1, 0.5), (0.5, 1), (0.5, 0)), strict=False):
        letters = axes.annotate(
            letter,
            (x, y),
            (8 * (1 - 2 * x), 8 * (1 - 2 * y)),
            xycoords="axes fraction",
            textcoords="offset points",
            color="white",
            fontsize=10,
            ha="center",
            va="center",
        )
        letters.set_path_effects([withStroke(linewidth=2, foreground="black")])


def outline(axes: Any, mask: np.ndarray, colour: str, style: str, thickness: float, order: int) -> None:
    """The border of ``mask [rows, columns]``; style: solid or dashed. thickness: in points."""
    if not mask.any():
        return
    # Padding closes the outline of a structure that runs into the border.
    rows, columns = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
    padded = np.pad(mask, 1).astype(float)
    dashes: list[Any] = [(0, (2.4, 1.5))] if style == "dashed" else [style]
    # Dashes scale with the line width: the dark rim has to repeat them at its own.
    rim = [(0, tuple(d * thickness / (thickness + 0.9) for d in dashes[0][1]))] if style == "dashed" else dashes
    for colours_, width, lines, alpha in ((["black"], thickness + 0.9, rim, 0.6), ([colour], thickness, dashes, 1.0)):
        axes.contour(
            columns, rows, padded, [0.5], colors=colours_, linewidths=width, linestyles=lines, zorder=order, alpha=alpha
        )


def curve_picture(curves: dict[str, list[dict[str, Any]]], key: str, title: str, theme: str) -> bytes | None:
    """One quantity of the training log over steps, a line per run; None when no record holds it.

    curves: name of the run -> records of its log.jsonl. key: what to draw. theme: "light" or "dark".
    The loss of many records is drawn faintly, with its running median on top.
    """
    ink = INK[theme]
    figure = Figure(figsize=(4.6, 2.9), dpi=_DPI)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    drawn = False
    for (name, records), colour in zip(curves.items(), _LINES[theme] * (len(curves) // 4 + 1), strict=False):
        steps, values = _series(records, key)
        if len(steps) == 0:
            continue
        drawn = True
        many = len(steps) > 60
        axes.plot(steps, values, color=colour, alpha=0.3 if many else 1, lw=1.6, label=None if many else name,
                  marker="o" if len(steps) < 25 else None, ms=3.5)  # fmt: skip
        if many:
            axes.plot(steps, _running_median(values), color=colour, lw=1.8, label=name)
    if not drawn:
        return None
    axes.set_title(title, color=ink, fontsize=10.5, loc="left")
    axes.set_xlabel("step", color=ink, fontsize=9)
    axes.ticklabel_format(axis="y", scilimits=(-2, 5), useOffset=False)
    axes.yaxis.get_offset_text().set_color(ink)
    axes.yaxis.get_offset_text().set_fontsize(8)
    axes.tick_params(colors=ink, labelsize=8, which="both")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink)
    axes.grid(color=ink, alpha=0.18, lw=0.6)
    if len(curves) > 1:
        axes.legend(fontsize=8, frameon=False, labelcolor=ink)
    figure.tight_layout(pad=0.6)
    return png_bytes(figure)


def _series(records: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(r["step"], r[key]) for r in records if "step" in r and isinstance(r.get(key), int | float)]
    array = np.array([pair for pair in pairs if np.isfinite(pair[1])], dtype=float).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _running_median(values: np.ndarray) -> np.ndarray:
    window = max(3, len(values) // 30)
    padded = np.pad(values, (window // 2, window - 1 - window // 2), mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, window), axis=-1))
