"""Pictures for the report: slices with contours, and training curves, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from foveate.figures import INK, PALETTE, png_bytes
from foveate.slices import SIDES, cuts

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

    image: ``[*S]`` one channel, or the colours of a picture. spacing: mm per axis. label (None if there is none),
    prediction: integer ``[*S]``. values: the label values that each class joins. affine: 4x4 to RAS mm; with it the
    volume is turned to RAS, shown as radiologists look at it (the patient's right on the left) and marked R and L.
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
    for letter, (x, y) in zip(marks or (), SIDES, strict=False):
        letters = axes.annotate(
            letter,
            (x, 1 - y),
            (8 * (1 - 2 * x), 8 * (2 * y - 1)),
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
