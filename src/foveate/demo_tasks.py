"""What the demos of tasks without masks share: train two methods alike, compare them on the same pictures, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from foveate.demo import BASELINE, COMPARED, hardly_trained, new_folder, verdict

if TYPE_CHECKING:
    from foveate.metrics.task_result import TaskEvaluation
    from foveate.report.page import ReportCase

MINUTES = 1.6  # of training per method: the whole demo then takes less than five minutes on two cores


@dataclass(frozen=True)
class Tour:
    """A demo. pictures: what it has, in words; test: how many are scored. notes: above the report.

    compared: key and name of the score that the verdict is about; shown: keys in the report; printed: two of them, by
    key and name. simulate: writes the datasets train/ and test/ into a folder, which is pictures/ of the demo's. score:
    trains a method for so many minutes in a folder of its own, and scores it on the test. cases: what the report shows.
    """

    task: str
    title: str
    pictures: str
    test: int
    notes: tuple[str, str]
    compared: tuple[str, str]
    shown: tuple[str, ...]
    printed: Mapping[str, str]
    simulate: Callable[[Path], object]
    score: Callable[[Path, str, float], TaskEvaluation]
    cases: Callable[[Path, str, TaskEvaluation], list[ReportCase]]


def run_tour(tour: Tour, out: Path, minutes: float | None, seed: int, quiet: bool) -> Path:
    """Run the demo in a new numbered folder under ``out`` and return the path of its report.html.

    minutes: of training, per method. Nothing is downloaded, opened or overwritten.
    """
    from foveate.engine.provenance import versions
    from foveate.metrics.task_pairs import paired
    from foveate.report.page import write_report
    from foveate.report.run import read_log

    console, started = Console(quiet=quiet), time.monotonic()
    folder = new_folder(out)
    console.print(f"Drawing {tour.pictures}, {tour.test} for the test.")
    tour.simulate(folder / "pictures")
    method, minutes = COMPARED, MINUTES if minutes is None else minutes
    scores = {name: tour.score(folder, name, minutes) for name in (BASELINE, method)}
    logs = {name: read_log(folder / name) for name in scores}
    steps = {name: max((record["step"] for record in log), default=0) for name, log in logs.items()}
    key, name = tour.compared
    gain = paired([scores[method]], [scores[BASELINE]], key)
    sentence = verdict(method, *gain, name, "pictures") + hardly_trained(steps)
    rows = _rows(scores, steps, tour.shown)
    console.print(_table(rows, tour.printed, f"{tour.test} simulated test pictures"), sentence, sep="\n")
    report = write_report(
        folder,
        title=f"Foveate demo: {tour.title}",
        subtitle=f"{tour.pictures}, {tour.test} for the test; {minutes:g} minutes of training for each method",
        notes=[tour.notes[0], sentence, tour.notes[1]],
        table=rows,
        curves=logs,
        cases=[case for name in scores for case in tour.cases(folder, name, scores[name])],
        command=f"foveate demo --task {tour.task}",
        provenance={"seed": seed, "minutes per method": minutes, "versions": versions()},
    )
    console.print(f"{(time.monotonic() - started) / 60:.1f} minutes in all. The report: {report}", soft_wrap=True)
    return report


def _rows(scores: Mapping[str, TaskEvaluation], steps: Mapping[str, int], keys: Iterable[str]) -> list[dict[str, Any]]:
    """A row for each method: steps, and the scores with their intervals."""
    rows = []
    for method, found in scores.items():
        row: dict[str, Any] = {"method": method, "steps": steps[method]}
        for key in keys:
            value, low, high = found[key]
            row |= {key: value, f"{key}_interval": (low, high)}
        rows.append(row)
    return rows


def _table(rows: Iterable[Mapping[str, Any]], names: Mapping[str, str], title: str) -> Table:
    """Two scores of such rows, which is what fits 80 columns."""
    table = Table("method", *names.values(), "steps", title=title)
    for row in rows:
        spans = {key: row[f"{key}_interval"] for key in names}
        cells = [f"{row[key]:.3f} ({low:.3f} to {high:.3f})" for key, (low, high) in spans.items()]
        table.add_row(row["method"], *cells, str(row["steps"]))
    return table
