"""The reliability of confidence as a plot (see ``reliability``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from foveate.figures import INK, png_bytes
from foveate.metrics.bootstrap import Estimate
from foveate.metrics.classification import BINS

_BLUE, _RED = "#0072B2", "#D55E00"  # Okabe and Ito: told apart with any common colour blindness
_INCHES = (4.6, 5.8)
_LEFT, _RIGHT, _FOOT = 0.14, 0.03, 0.115  # margins, as shares of the figure


def draw_reliability(rows: Sequence[Mapping[str, Any]], error: Estimate) -> bytes:
    """The rows as a plot: share right over confidence, with intervals, and below how often each confidence occurs.

    error: the expected calibration error, for the title. Returns the bytes of a PNG.
    """
    ink = INK["light"]
    figure = Figure(figsize=_INCHES, dpi=150)
    across = 1 - _LEFT - _RIGHT
    square = across * _INCHES[0] / _INCHES[1]
    upper = figure.add_axes((_LEFT, 0.94 - square, across, square))
    lower = figure.add_axes((_LEFT, _FOOT, across, 0.90 - square - _FOOT))
    upper.plot([0, 1], [0, 1], color=ink, lw=1.0, ls=(0, (5, 3)), zorder=1)
    x, y = ([row[key] for row in rows] for key in ("confidence", "right"))
    low, high = ([row["right_interval"][end] for row in rows] for end in (0, 1))
    upper.vlines(x, x, y, color=_RED, lw=6, alpha=0.35, zorder=2)
    given = np.isfinite(low)
    upper.vlines(np.array(x)[given], np.array(low)[given], np.array(high)[given], color=_BLUE, lw=1.3, zorder=3)
    upper.plot(x, y, color=_BLUE, lw=1.0, alpha=0.4, zorder=3)
    upper.scatter(x, y, s=34, color=_BLUE, edgecolor="white", lw=0.8, zorder=4)
    upper.text(0.03, 0.97, "underconfident", color=ink, alpha=0.75, fontsize=8.5, va="top")
    upper.text(0.97, 0.03, "overconfident", color=ink, alpha=0.75, fontsize=8.5, ha="right")
    title = f"Calibration error {error.value:.3f}"
    if np.isfinite(error.low):
        title += f" ({error.low:.3f} to {error.high:.3f})"
    upper.set_title(title, color=ink, fontsize=10.5, loc="left")
    upper.set_ylabel("share right", color=ink, fontsize=9.5)
    lower.bar([row["low"] for row in rows], [row["count"] for row in rows], width=1 / BINS, align="edge",
              color=_BLUE, alpha=0.75, edgecolor="white", lw=0.8)  # fmt: skip
    lower.set_xlabel("confidence", color=ink, fontsize=9.5)
    lower.set_ylabel("predictions", color=ink, fontsize=9.5)
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axes in (upper, lower):
        axes.tick_params(colors=ink, labelsize=8.5)
        axes.grid(color=ink, alpha=0.12, lw=0.6)
        axes.set_axisbelow(True)
        axes.set_xlim(0, 1)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(ink)
    upper.set_ylim(0, 1)
    upper.tick_params(labelbottom=False)
    for drawn in upper.collections:
        drawn.set_clip_on(False)  # a point at the edge is shown whole
    figure.align_ylabels()
    note = "Red: gap to the diagonal." + " Bars: 95% interval over patients." * bool(given.any())
    figure.text(0.02, 0.012, note, color=ink, fontsize=7.5)
    return png_bytes(figure)
