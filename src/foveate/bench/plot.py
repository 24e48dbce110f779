"""Dice against the number of labels, a line per method, the ceiling dashed; without curves, differences alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from foveate.bench.rows import ALL, Row
from foveate.bench.table import BASELINE, Estimate, Group, Key, group_rows, mean_dice, paired
from foveate.figures import png_bytes
from foveate.files import write_atomic

INK = "#30343b"
# Paul Tol's "muted" colours, which people with any common colour blindness can tell apart; the baseline is grey.
COLOURS = ("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#AA4499", "#44AA99", "#882255", "#999933")
_MARKERS = "sD^vPX<>p"
FAR = 5.0  # times the usual size of a difference, from which one would squeeze the others
_SPREAD = 0.6  # of the way from one number of labels to the next: intervals of methods must not lie on one another


def write_plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the rows of one setting (see ``table.Setting``) into a PNG file.

    Where most methods have a single number of labels, which makes no curve, paired differences to the baseline.
    """
    found = group_rows(rows)
    if differences := _differences(found, rows[0]["train_cases"]):
        write_forest(differences, _title(rows[0]), "Dice minus that of supervised", path)
        return
    figure = Figure(figsize=(7.2, 4.2), dpi=150)
    axes = figure.add_subplot()
    groups = {key: mean_dice(group) for key, group in found.items()}
    # A method that ran with fewer seeds stands higher or lower by the draws that it had: the legend says so.
    uneven = len({len(group) for (labels, _), group in found.items() if labels != ALL}) > 1
    counts = sorted({int(labels) for labels, _ in groups if labels != ALL})
    lines: dict[str, dict[int, Estimate]] = {}
    for (labels, method), dice in groups.items():
        if labels != ALL:
            lines.setdefault(method, {})[counts.index(int(labels))] = dice
    others = iter(zip(COLOURS * 9, _MARKERS * 9, strict=True))
    for number, (method, points) in enumerate(lines.items()):
        shift = min(_SPREAD / len(lines), 0.066) * (number - (len(lines) - 1) / 2)
        colour, marker = (INK, "o") if method == BASELINE else next(others)
        bars = [
            [dice.value - dice.low for dice in points.values()],
            [dice.high - dice.value for dice in points.values()],
        ]
        axes.errorbar(
            [place + shift for place in points],
            [dice.value for dice in points.values()],
            yerr=bars,
            label=f"{method}, {_seeds(found, method)}" if uneven else method,
            color=colour,
            marker=marker,
            ms=6,
            lw=2.2 if method == BASELINE else 1.5,
            elinewidth=1.0,
            capsize=2.5,
        )
    ceiling = groups.get((ALL, BASELINE))
    if ceiling:
        cases = rows[0]["train_cases"]
        axes.axhline(ceiling.value, color=INK, ls=(0, (5, 3)), lw=1.4, label=f"supervised, all {cases} labels")
        axes.axhspan(ceiling.low, ceiling.high, color=INK, alpha=0.08, lw=0)
    _finish(figure, counts, rows[0])
    write_atomic(path, png_bytes(figure))


def _seeds(groups: Mapping[Key, Group], method: str) -> str:
    """How many seeds a method ran with, in words: the least over numbers of labels."""
    count = min(len(group) for (labels, name), group in groups.items() if name == method and labels != ALL)
    return f"{count} seed{'s' * (count > 1)}"


def _differences(groups: Mapping[Key, Group], train_cases: str) -> dict[str, Estimate]:
    """Paired differences to the baseline with as many labels, by name, of each number of labels the best first.

    {} where most methods have several numbers of labels, which make curves.
    """
    counts: dict[str, set[int]] = {}
    for labels, method in groups:
        if labels != ALL:
            counts.setdefault(method, set()).add(int(labels))
    every = set().union(*counts.values())
    if len(every) > 1 and 2 * sum(len(found) > 1 for found in counts.values()) > len(counts):
        return {}
    rows: dict[str, Estimate] = {}
    for count in sorted(every):
        baseline = groups.get((str(count), BASELINE), {})
        found = {
            method if labels != ALL else f"{method}, all {train_cases} labels": paired(group, baseline)
            for (labels, method), group in groups.items()
            if labels in (ALL, str(count)) and group is not baseline and group.keys() & baseline.keys()
        }
        for name, difference in sorted(found.items(), key=lambda item: -item[1].value):
            rows[name if len(every) == 1 else f"{count} labels: {name}"] = difference
    return rows


def write_forest(estimates: Mapping[str, Estimate], title: str, label: str, path: Path) -> None:
    """Draw numbers with their intervals, a line each from top to bottom, around zero into a PNG file.

    What lies far outside of where most lie stands at the edge, as a number.
    """
    figure = Figure(figsize=(7.2, 1.4 + 0.26 * len(estimates)), dpi=150)
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, lw=1.0, ls=(0, (5, 3)))
    reach = FAR * float(np.median([max(abs(each.low), abs(each.high)) for each in estimates.values()]))
    for place, each in enumerate(estimates.values()):
        if abs(each.value) > reach:
            edge, side = (0.0, "left") if each.value < 0 else (1.0, "right")
            text = f"< {each.value:+.3f}" if each.value < 0 else f"{each.value:+.3f} >"
            axes.text(
                edge, place, text, transform=axes.get_yaxis_transform(), ha=side, va="center", color=INK, fontsize=9
            )
            continue
        ends = [[each.value - each.low], [each.high - each.value]]
        axes.errorbar([each.value], [place], xerr=ends, color=COLOURS[0], marker="o", ms=5, lw=1.4, capsize=2.5)
    axes.set_yticks(range(len(estimates)), list(estimates))
    axes.set_ylim(len(estimates) - 0.4, -0.6)
    figure.suptitle(title, x=0.02, ha="left", color=INK, fontsize=10.5)
    axes.set_xlabel(f"{label}\n(bars: 95% interval over patients)", color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(INK)
    figure.tight_layout()
    write_atomic(path, png_bytes(figure))


def _title(row: Row) -> str:
    return f"{row['dataset']}: {float(row['minutes']):g} minutes each, scored on {row['scored']}"


def _finish(figure: Figure, counts: Sequence[int], row: Row) -> None:
    """Axes in even steps, one for each number of labels, and words."""
    axes = figure.axes[0]
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    margin = 0.5 if len(counts) > 1 else 0.8
    axes.set_xlim(-margin, max(len(counts) - 1, 0) + margin)
    axes.set_xlabel("labelled scans", color=INK)
    axes.set_ylabel("mean Dice", color=INK)
    axes.set_title(_title(row), color=INK, loc="left", fontsize=10.5)
    axes.tick_params(colors=INK)
    axes.grid(axis="y", color=INK, alpha=0.15, lw=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK, fontsize=9)
    figure.text(0.01, 0.012, "Bars and band: 95% interval over patients.", color=INK, fontsize=7.5)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
