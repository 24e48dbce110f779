"""Rows of finished runs: a CSV with one line each, and the Dice of every scored case in a JSON file beside it.

A row counts once both are on disk. Rows are added under a lock, cases first, each file replaced as a whole: whoever is
killed, and wherever, leaves the rows that were there, and perhaps the new one.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.bench.locks import waiting_lock
from foveate.errors import refuse
from foveate.files import write_atomic

Row = dict[str, Any]
CASES = "cases"
"""Key of ``{case id: {"patient": id, "dice": [of each class]}}``, which is kept in JSON and not in the CSV; a Dice is
None where a class does not apply."""

ALL = "all"
"""Number of labels of the ceiling: every one there is."""


def run_name(row: Mapping[str, Any]) -> str:
    """What tells the runs of a dataset apart. Rows of one name are of the same run."""
    labels = row["labels"] if row["labels"] == ALL else int(row["labels"])
    given = budget(float(row["minutes"]), row["clock"])
    parts = [row["scored"], str(row["method"]).replace(":", "_"), labels, f"s{int(row['seed'])}"]
    return "-".join(map(str, [*parts, given, f"{int(row['threads'])}t", row["device"]]))


def budget(minutes: float, clock: str) -> str:
    """What a training was given, as names say it."""
    return f"{minutes:g}min" if clock == "wall" else f"{minutes:g}{clock}min"


def read_rows(path: Path) -> list[Row]:
    """The rows of a results file with their cases; one that lost its cases does not count."""
    rows = [(row, _cases_file(path, row)) for row in _lines(path)]
    return [{**row, CASES: json.loads(file.read_text(encoding="utf-8"))} for row, file in rows if file.exists()]


def append_row(path: Path, row: Row) -> bool:
    """Add a row and its cases; on disk when this returns. False when the run has its row already, which stays.

    Raises InputError when the file has other columns.
    """
    columns = [key for key in row if key != CASES]
    cases = _cases_file(path, row)
    cases.parent.mkdir(parents=True, exist_ok=True)
    with waiting_lock(path.with_name(f".{path.name}.lock")):
        there = _lines(path)
        if there and list(there[0]) != columns:
            fix = "Name another --results folder, or bring the file to these columns."
            raise refuse(path, "columns", ", ".join(there[0]), ", ".join(columns), fix)
        if any(run_name(other) == run_name(row) for other in there) and cases.exists():
            return False
        kept = [other for other in there if run_name(other) != run_name(row)]  # one that lost its cases is replaced
        lines = ",\n".join(f" {json.dumps(case)}: {json.dumps(value)}" for case, value in sorted(row[CASES].items()))
        write_atomic(cases, f"{{\n{lines}\n}}\n")
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*kept, row])
        write_atomic(path, text.getvalue())
    return True


def _lines(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _cases_file(path: Path, row: Mapping[str, Any]) -> Path:
    return path.with_name(f"{path.stem}_cases") / f"{run_name(row)}.json"
