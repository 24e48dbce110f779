"""Tables and plots of ``foveate bench attention``."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from foveate.bench.attention import CONVOLUTION, FULL, Point, Settings, slope
from foveate.bench.machine import commit, cores, machine
from foveate.bench.page import markdown_table
from foveate.bench.plot import COLOURS, INK
from foveate.figures import png_bytes
from foveate.files import write_atomic

COLUMNS = 5  # of small plots


def render(points: Sequence[Point], settings: Settings) -> str:
    """A table for 3D and one for 2D, how to read them, and what they were made with."""
    parts = []
    for dims, sides in ((3, settings.cubes), (2, settings.squares)):
        here = [point for point in points if point.dims == dims]
        if not here:
            continue
        header = ["block", "parameters", *[f"{side}^{dims}" for side in sides]]
        header += ["time ~ voxels^", "memory ~ voxels^", "time / convolution", "memory / convolution"]
        header += ["time / full attention"]
        parts.append(f"**{dims}D**\n\n{markdown_table(header, [_line(name, here, sides) for name in blocks(here)])}")
    return "\n\n".join([*parts, _reading(settings), _provenance(settings)])


def blocks(points: Sequence[Point]) -> list[str]:
    """The blocks in order, full attention first."""
    return list(dict.fromkeys(point.block for point in points if point.block != CONVOLUTION))


def _line(name: str, points: Sequence[Point], sides: Sequence[int]) -> list[str]:
    mine = {point.side: point for point in points if point.block == name}
    plain = {point.side: point for point in points if point.beside == name}
    full = {point.side: point for point in points if point.block == FULL}
    cells = [name, str(mine[min(mine)].parameters)]
    for side in sides:
        point = mine.get(side)
        cells.append(
            f"{1e3 * point.forward_seconds:.3g} + {1e3 * point.backward_seconds:.3g} ms, {point.peak_mib:.3g} MiB"
            if point
            else "over the bound"
        )
    largest = max(mine)
    cells += [_number(slope(list(mine.values()), quantity)) for quantity in ("seconds", "peak_mib")]
    cells.append(f"{mine[largest].seconds / plain[largest].seconds:.2g}")
    cells.append(f"{mine[largest].peak_mib / plain[largest].peak_mib:.2g}")
    common = max(mine.keys() & full.keys())
    return [*cells, f"{mine[common].seconds / full[common].seconds:.2g}"]


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _reading(settings: Settings) -> str:
    return (
        f"One image of {settings.channels} channels: milliseconds of forward + backward, the fastest of a few steps, "
        "and the most memory that torch held at once beyond weights and input. Exponents are fitted through the "
        "three largest sizes, as small ones measure the cost of a call. A convolution is one of 3 voxels "
        "per axis and one of a single voxel, of the width between them that comes closest to the block's parameters "
        "(both of a single voxel for the smallest blocks), and at least one channel; ratios are those "
        f"at the largest size that was measured. Full attention is `{FULL}`, whose limit of voxels is lifted here. "
        f"A size is over the bound where a step would take more than {settings.bound:g} s."
    )


def _provenance(settings: Settings) -> str:
    threads = settings.threads or cores()
    where = machine(threads) + ("" if settings.device == "cpu" else f", {settings.device}")
    return " · ".join([f"`{command(settings)}`", where, f"commit {commit()}", datetime.date.today().isoformat()])


def command(settings: Settings) -> str:
    """The command that measures this again."""
    lists = {"blocks": settings.blocks, "cubes": settings.cubes, "squares": settings.squares}
    options = [f"--{option} {','.join(map(str, values))}" for option, values in lists.items()]
    options += [f"--channels {settings.channels}", f"--bound {settings.bound:g}"]
    options += [f"--threads {settings.threads or cores()}", f"--device {settings.device}"]
    return " ".join(["foveate bench attention", *options])


def write_plot(points: Sequence[Point], quantity: str, label: str, path: Path) -> None:
    """A small log-log plot for each block, with the convolution of as many parameters and full attention beside it."""
    names = blocks(points)
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(2.1 * COLUMNS, 1.9 * rows + 0.9), dpi=130)
    grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        for dims, colour, marker in ((3, COLOURS[1], "o"), (2, COLOURS[4], "s")):
            here = [point for point in points if point.dims == dims]
            lines = {
                "full attention": ([p for p in here if p.block == FULL], {"color": INK, "alpha": 0.3, "lw": 3}),
                "convolution": ([p for p in here if p.beside == name], {"color": colour, "ls": "--", "lw": 1.2}),
                "block": (
                    [p for p in here if p.block == name],
                    {"color": colour, "lw": 1.6, "marker": marker, "ms": 3},
                ),
            }
            for kind, (found, style) in lines.items():
                xy = [p.tokens for p in found], [getattr(p, quantity) for p in found]
                axes.loglog(*xy, label=f"{kind}, {dims}D" if kind != "full attention" else kind, **style)
        axes.set_title(name, color=INK, fontsize=9, loc="left", pad=3)
        axes.tick_params(colors=INK, labelsize=7)
        axes.minorticks_off()
        axes.grid(color=INK, alpha=0.12, lw=0.5)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(INK)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    handles = dict(zip(*reversed(grid.flat[0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="upper center", ncols=5, frameon=False, fontsize=8)
    figure.supxlabel("voxels", color=INK, fontsize=9)
    figure.supylabel(label, color=INK, fontsize=9)
    width, height = figure.get_size_inches()
    figure.subplots_adjust(0.7 / width, 0.55 / height, 1 - 0.1 / width, 1 - 0.6 / height, 0.12, 0.3)
    write_atomic(path, png_bytes(figure))
