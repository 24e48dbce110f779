"""Figures as PNG bytes: the one writer behind every picture and plot."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

INK = {"light": "#30343b", "dark": "#d5d9e0"}  # text and axes on a light and on a dark page
# Okabe and Ito's palette, which people with any common colour blindness can tell apart, bright ones first.
PALETTE = ("#E69F00", "#56B4E9", "#00C08B", "#F0E442", "#CC79A7", "#FF6F3C", "#7FA8FF")


def _take_literally(figure: Figure) -> None:
    """Names are no formulas: a $ in one is a $. The numbers at axes are, as 10^-3."""
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    numbers = {text for axis in axes for text in axis.findobj(Text) if text is not axis.label}
    for text in figure.findobj(Text):
        if text not in numbers:
            text.set_parse_math(False)


def png_bytes(figure: Figure, colours: int | None = None) -> bytes:
    """The figure as PNG; with ``colours`` reduced to a palette, a third of the size."""
    _take_literally(figure)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    if colours is None:
        return out.getvalue()
    small = io.BytesIO()
    with Image.open(out) as picture:
        picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()
