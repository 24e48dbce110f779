"""An evaluation of classes, values or boxes on the terminal, within 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from foveate.metrics.bootstrap import Estimate
from foveate.metrics.task_result import TaskEvaluation

_ROWS = 20  # cases printed; the JSON holds all
_CLASSES = 12  # for which a confusion matrix is printed
_TITLES = {
    "macro_f1": "macro F1",
    "f1": "F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity_at_95_specificity": "sensitivity at 95% specificity",
    "brier": "Brier score",
    "ece": "calibration error",
    "classwise_ece": "calibration error, class by class",
    "ap50": "AP at IoU 0.5",
    "ap": "AP, mean of IoU 0.1 to 0.75",
    "froc": "FROC, mean sensitivity",
    "mae": "mean absolute error",
    "rmse": "root mean square error",
    "r2": "R²",
    "coverage": "coverage of the intervals",
    "interval_width": "width of the intervals",
}
# What is shown of each class: the JSON has more, for which there are no columns.
_OF_CLASS = ("f1", "sensitivity", "auroc", "auprc", "sensitivity_at_95_specificity", "ap", "ap10", "ap50", "froc")
_SHORT = {  # as heads of columns
    "sensitivity_at_95_specificity": "sens.\nat 95%\nspec.",
    "sensitivity": "sens.",
    "ap": "AP",
    "ap50": "AP50",
    "froc": "FROC",
    "probability_of_label": "P(label)",
    "mean_iou": "mean IoU",
}


def show(evaluation: TaskEvaluation, console: Console) -> None:
    """Scores with intervals, those of each class, the confusion matrix, cases worst first, then what was left out."""
    console.print(_scores(evaluation))
    if len(evaluation.classes) > 0:
        console.print(_by_class(evaluation))
    if "confusion" in evaluation.details:
        console.print(_confusion(evaluation.classes, evaluation.details["confusion"]))
    console.print(_cases(evaluation))
    hidden = len(evaluation.cases) - _ROWS
    if hidden > 0:
        console.print(f"[dim]{hidden} better cases are not shown; --json FILE holds every case.[/]")
    _notes(evaluation, console)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def _scores(evaluation: TaskEvaluation) -> Table:
    table = _table(f"{len(evaluation.cases)} cases, with 95% interval")
    for header in ("", "score", "interval"):
        table.add_column(header, justify="right" if header else "left")
    for key, estimate in evaluation.scores.items():
        if "/" not in key:
            table.add_row(_title(key), number(estimate.value), interval(estimate))
    return table


def _by_class(evaluation: TaskEvaluation) -> Table:
    """One row a class, each score over its interval."""
    there = {key.split("/", 1)[0] for key in evaluation.scores if "/" in key}
    keys = [key for key in _OF_CLASS if key in there]
    table = _table("Each class")
    table.add_column("class", overflow="fold")
    for key in keys:
        table.add_column(_SHORT.get(key, _title(key)), justify="right")
    for name in evaluation.classes:
        cells = []
        for key in keys:
            estimate = evaluation.scores.get(f"{key}/{name}", Estimate(math.nan, math.nan, math.nan))
            between = "" if math.isnan(estimate.low) else f"\n[dim]{estimate.low:.2f}-{estimate.high:.2f}[/]"
            cells.append(number(estimate.value) + between)
        table.add_row(escape(name), *cells)
    return table


def _confusion(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Table | str:
    """Rows: what is true; columns: what was predicted, by the number of the class."""
    if len(classes) > _CLASSES:
        return f"[dim]{len(classes)} classes: the confusion matrix is in --json FILE.[/]"
    table = _table("Confusion")
    table.add_column("true, and predicted as", overflow="fold", max_width=24)
    for place in range(len(classes)):
        table.add_column(str(place + 1), justify="right", no_wrap=True)
    for place, (name, row) in enumerate(zip(classes, counts, strict=True)):
        cells = [f"[bold]{count}[/]" if column == place else _quiet(count) for column, count in enumerate(row)]
        table.add_row(f"{place + 1} {escape(name)}", *cells)
    return table


def _quiet(count: int) -> str:
    return str(count) if count else "[dim]0[/]"


def _cases(evaluation: TaskEvaluation) -> Table:
    cases, sure = evaluation.cases, evaluation.details.get("score_in_cases")
    of = "" if sure is None else f", boxes of a score of {sure:g} and more at IoU 0.5"
    table = _table(f"Cases, worst first{of}")
    names = [name for name in cases[0] if name not in ("patient", "right")]
    for name in names:
        text = any(isinstance(case[name], str) for case in cases)
        width = 16 if text and name != "case" else None
        table.add_column(
            _SHORT.get(name, name.replace("_", " ")),
            justify="left" if text else "right",
            overflow="fold",
            max_width=width,
        )
    for case in cases[:_ROWS]:
        style = "red" if case.get("right") is False else None
        table.add_row(*(_cell(case[name]) for name in names), style=style)
    return table


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else escape(str(value))


def _notes(evaluation: TaskEvaluation, console: Console) -> None:
    if evaluation.problems:
        console.print(f"[bold]Warnings: {len(evaluation.problems)}[/]", highlight=False)
        for problem in evaluation.problems:
            console.print(f"  {escape(str(problem))}", highlight=False)
    if evaluation.patients < 2:
        console.print("[dim]One patient: no interval can be given.[/]")
    elif not evaluation.patients_named:
        console.print(
            "[dim]Nothing says which cases are of one patient, so each counts as a patient of its own: where patients "
            "have several, the intervals are too narrow.[/]"
        )
    elif evaluation.patients < 5:
        console.print(f"[dim]{evaluation.patients} patients: too few for the intervals to be trusted.[/]")


def _title(key: str) -> str:
    """Of a key; ``ap50`` is the AP at an IoU of 0.5."""
    return _TITLES.get(key) or (key.upper() if key[:2] == "ap" and key[2:].isdigit() else key.replace("_", " "))


def number(value: float) -> str:
    """Three digits after the point, or of a large value four in all; a dash where it does not apply."""
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def interval(estimate: Estimate) -> str:
    """Its ends, or nothing where no interval can be given."""
    return "" if math.isnan(estimate.low) else f"{number(estimate.low)} to {number(estimate.high)}"
