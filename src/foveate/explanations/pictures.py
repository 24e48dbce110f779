"""One picture of a scan: the predicted mask first, then every map over the same slice, with what its check said."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from foveate.explanations.randomise import Verdict
from foveate.figures import png_bytes
from foveate.report.pictures import colours, intensity_window, mark_sides, outline
from foveate.slices import Cut

# In inches: side of a panel's field, a line of its heading, room for the colour bar and between panels.
_SIDE, _LINE, _BAR, _GAP = 2.3, 0.13, 0.62, 0.14
_MOST_COLUMNS, _DPI = 5, 120
_VEIL = 0.65  # opacity of a map over the scan: where it lies has to be seen, and how strong it is
Said = Verdict | Literal["missing"]  # of a map in a picture: its verdict, or that the scan lacks what it is of
_VERDICTS: dict[Said, tuple[str, str]] = {
    "passes": ("passes the randomisation check", "#1d6b3a"),
    "fails": ("FAILS the randomisation check", "#b3261e"),
    "empty": ("not checked: one value in the patch", "#6a5a00"),
    "missing": ("the scan lacks this modality", "#6a5a00"),
}


@dataclass(frozen=True)
class Panel:
    """One map to draw. values: the slice ``[rows, columns]``. title: for people. verdict: of its check, or that the
    scan lacks what the map is of; None where no check was made.

    signed: what is below zero speaks against.
    """

    values: np.ndarray
    title: str
    verdict: Said | None = None
    signed: bool = False


def overview(
    title: str,
    image: np.ndarray,
    labels: np.ndarray,
    classes: dict[str, tuple[int, ...]],
    cut: Cut,
    panels: Sequence[Panel],
    answer: Sequence[str] = ("Prediction", "the model's answer"),
    most_columns: int = _MOST_COLUMNS,
) -> bytes:
    """The picture as PNG. image, labels: slices ``[rows, columns]`` of the scan (or a picture's colours) and of its
    prediction. answer: lines above the scan."""
    height, width = (image.shape[0] + 1) * cut.aspect, image.shape[1] + 1
    scale = _SIDE / max(height, width)
    # A long, thin slice still needs room for its heading and colour bar.
    field = max(width * scale, 0.5 * _SIDE), max(height * scale, 0.5 * _SIDE)
    characters = _characters(field[0] + _BAR + _GAP)
    headings = [[_shorten(line, characters) for line in answer]]
    headings += [_wrap(panel.title, characters)[:4] for panel in panels]
    said = max(map(len, headings)) + any(panel.verdict is not None for panel in panels)
    cell = field[0] + _BAR + _GAP, field[1] + 0.07 + _LINE * said + _GAP
    columns = min(len(panels) + 1, most_columns, max(2, math.ceil(math.sqrt(1.5 * (len(panels) + 1)))))
    rows = math.ceil((len(panels) + 1) / columns)
    top, bottom = 0.45, 0.34
    size = max(columns * cell[0] + _GAP, 4.0), rows * cell[1] + top + bottom
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white")
    place = f" – {cut.title}" if cut.title else ""
    heading = _shorten(title, int(size[0] * 9) - len(place)) + place
    figure.text(_GAP / size[0], 1 - 0.5 * top / size[1], heading, fontsize=11, weight="bold", va="center")
    values, shades = list(classes.values()), colours(len(classes))
    for number in range(len(panels) + 1):
        row, column = divmod(number, columns)
        left, low = _GAP + column * cell[0], size[1] - top - (row + 1) * cell[1] + _GAP
        axes = figure.add_axes((left / size[0], low / size[1], field[0] / size[0], field[1] / size[1]))
        axes.axis("off")
        panel = panels[number - 1] if number else None
        _draw_scan(axes, image, cut.aspect)
        if panel is None:
            mark_sides(axes, cut.marks)
            verdict, ink = "", "black"
        else:
            bar = (left + field[0] + 0.06) / size[0], low / size[1], 0.09 / size[0], field[1] / size[1]
            _draw_map(figure, axes, panel, cut.aspect, bar)
            verdict, ink = _VERDICTS[panel.verdict] if panel.verdict else ("", "black")
        for members, shade in zip(values, shades, strict=True):
            outline(axes, np.isin(labels, members), shade, "solid", 1.1, 3)
        axes.set(xlim=(-1, image.shape[1]), ylim=(image.shape[0], -1))  # outlines may run along the border
        base = low + field[1] + 0.05
        lines = headings[number]
        for at, line in enumerate(reversed([*lines, verdict] if verdict else lines)):
            judges = bool(verdict) and at == 0
            x, y = left / size[0], (base + _LINE * at) / size[1]
            weight = "bold" if judges and panel is not None and panel.verdict == "fails" else "normal"
            figure.text(x, y, line, fontsize=7.5, color=ink if judges else "black", weight=weight, va="bottom")
    _legend(figure, dict(zip(classes, shades, strict=True)))
    return png_bytes(figure)


def _draw_scan(axes: Any, image: np.ndarray, aspect: float) -> None:
    black, white = intensity_window(image)
    axes.imshow(image, cmap="gray", vmin=black, vmax=white, aspect=aspect, interpolation="bilinear")


def apart(low: float, high: float) -> list[str]:
    """Two numbers with two digits, or as many more as tell them apart."""
    texts = ([f"{value:.{digits}g}" for value in (low, high)] for digits in range(2, 8))
    return next((pair for pair in texts if pair[0] != pair[1]), [f"{low:.8g}", f"{high:.8g}"])


def shades(values: np.ndarray, signed: bool) -> tuple[float, float, dict[float, str]]:
    """What a map's darkest and brightest colour stand for, and what is written beside its colour bar, where.

    A map of one value has that value alone beside its bar: dark where it is nothing, bright where it is something.
    """
    least, most = (float(v) for v in (values.min(), values.max()))
    reach = max(abs(least), abs(most)) or 1.0
    low, high = (-reach, reach) if signed else (least, most)
    if least < most:
        return low, high, dict(zip((low, high), apart(low, high), strict=True))
    if not signed:
        low, high = min(least, 0.0), max(least, 0.0 if least else 1.0)
    return low, high, {least: f"all {least:.2g}"}


def _draw_map(figure: Figure, axes: Any, panel: Panel, aspect: float, bar: tuple[float, float, float, float]) -> None:
    low, high, said = shades(panel.values, panel.signed)
    colours_ = "RdBu_r" if panel.signed else "magma"
    shown = {"cmap": colours_, "vmin": low, "vmax": high, "alpha": _VEIL}
    drawn = axes.imshow(panel.values, aspect=aspect, interpolation="nearest", **shown)
    scale = figure.colorbar(drawn, cax=figure.add_axes(bar), ticks=list(said))
    scale.ax.set_yticklabels(list(said.values()), fontsize=7)
    scale.ax.tick_params(length=2, pad=2)
    for value, label in zip(said, scale.ax.get_yticklabels(), strict=True):
        label.set_verticalalignment("bottom" if value == low else "top" if value == high else "center")


def _legend(figure: Figure, classes: dict[str, str]) -> None:
    """Classes by colour below the panels, as many as fit in one row."""
    width, height = figure.get_size_inches()
    room = int(width * 11)
    shown: dict[str, str] = {}
    for name, shade in classes.items():
        label = _shorten(name, max(24, room // len(classes) - 6))
        room -= len(label) + 6
        if room < 0:
            label = f"and {len(classes) - len(shown)} more"
            shown[label] = "none"
            break
        shown[label] = shade
    handles = [Patch(facecolor=shade, edgecolor=shade, label=label) for label, shade in shown.items()]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.05 / width, 0.02 / height),
        ncols=len(handles),
        fontsize=8,
        frameon=False,
        handlelength=1.0,
        handleheight=1.0,
        columnspacing=1.2,
    )


def _characters(inches: float) -> int:
    """How many characters of a panel's heading fit."""
    return int((inches - _GAP) * 16.5)


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters; names of layers are broken at their dots, and anywhere if need be."""
    lines = [""]
    for piece in re.findall(rf"[^ ._]{{1,{width - 1}}}[ ._]*|[ ._]+", text):
        if len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(most - 1, 1)] + "…"
