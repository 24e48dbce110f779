"""An evaluation on the terminal, within 80 columns."""

from __future__ import annotations

import math
from collections.abc import Collection

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from foveate.metrics.case import METRICS, CaseScores
from foveate.metrics.result import Evaluation

_ROWS = 40  # cases printed; the JSON holds all
_LISTED = 12


def show(evaluation: Evaluation, console: Console) -> None:
    """Means with intervals, cases worst first, then what is missing and what was left out."""
    console.print(_means(evaluation))
    console.print(_cases(evaluation))
    hidden = len(evaluation.cases) - _ROWS
    if hidden > 0:
        console.print(f"[dim]{hidden} better cases are not shown; --json FILE holds every case.[/]")
    _notes(evaluation, console)


def _means(evaluation: Evaluation) -> Table:
    unit = evaluation.unit
    table = Table(
        title="Mean over cases, with 95% interval", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    table.add_column("class", overflow="fold")
    table.add_column("cases", justify="right")
    for header in ("Dice", f"HD95 {unit}", f"ASD {unit}", f"NSD {evaluation.tolerance:g} {unit}"):
        table.add_column(header, justify="right")
    for row in evaluation.table():
        cells = []
        for metric in METRICS:
            digits = 3 if metric in ("dice", "nsd") else 2
            key = evaluation.key(metric)
            low, high = row[f"{key}_interval"]
            value = number(row[key], digits)
            cells.append(value if math.isnan(low) else f"{value}\n[dim]{number(low, digits)}-{number(high, digits)}[/]")
        style = "bold" if row["class"] == "mean" and len(evaluation.classes) > 1 else None
        table.add_row(escape(row["class"]), str(row["cases"]), *cells, style=style)
    return table


def _cases(evaluation: Evaluation) -> Table:
    unit = evaluation.unit
    names = evaluation.classes if 1 < len(evaluation.classes) <= 3 else ()
    table = Table(title="Cases, worst first", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("case", overflow="fold", max_width=30)
    table.add_column("Dice", justify="right")
    for name in names:
        table.add_column(escape(name), justify="right", overflow="ellipsis", max_width=10)
    for header in (f"HD95 {unit}", f"ASD {unit}", "NSD"):
        table.add_column(header, justify="right", no_wrap=True)
    for case in evaluation.cases[:_ROWS]:
        each = [number(case.classes[key].dice, 3) + _mark(case, key) for key in names]
        rest = [number(case.mean(metric), 3 if metric == "nsd" else 2) for metric in ("hd95", "asd", "nsd")]
        table.add_row(escape(case.id), number(case.mean("dice"), 3), *each, *rest)
    return table


def _mark(case: CaseScores, name: str) -> str:
    if not case.predicted:
        return " [red]f[/]"
    return {"missing": " [red]m[/]", "spurious": " [red]s[/]"}.get(case.classes[name].state, "")


def _notes(evaluation: Evaluation, console: Console) -> None:
    without = set(evaluation.missing_predictions)
    lists = (
        ("f  No prediction file", evaluation.missing_predictions),
        ("m  Structure missing in the prediction", _pairs(evaluation.listed("missing"), without)),
        ("s  Structure only in the prediction", _pairs(evaluation.listed("spurious"))),
        ("-  Structure in neither: not counted", _pairs(evaluation.listed("absent"))),
        ("Warnings", [str(problem) for problem in evaluation.problems]),
    )
    for title, items in lists:
        if items:
            console.print(f"[bold]{title}: {len(items)}[/]", highlight=False)
            for item in items[:_LISTED]:
                console.print(f"  {escape(item)}", highlight=False)
            if len(items) > _LISTED:
                console.print(f"  [dim]and {len(items) - _LISTED} more[/]")
    if any(case.classes[name].state in ("missing", "spurious") for case in evaluation.cases for name in case.classes):
        console.print("[dim]f, m and s count: Dice 0, NSD 0, and distances as long as the image's diagonal.[/]")
    if evaluation.patients < 2:
        console.print("[dim]One patient: no interval can be given.[/]")
    elif evaluation.patients < 5:
        console.print(f"[dim]{evaluation.patients} patients: too few for the intervals to be trusted.[/]")


def _pairs(pairs: list[tuple[str, str]], without: Collection[str] = ()) -> list[str]:
    return [f"{case}: {name}" for case, name in pairs if case not in without]


def number(value: float, digits: int) -> str:
    """A score for reading; a dash where it does not apply."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
