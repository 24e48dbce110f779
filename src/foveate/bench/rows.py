"""Rows of finished runs: a CSV with one line each, and the Dice of every scored case in a JSON file beside it.

A row counts once both are on disk. Rows are added under a lock, cases first, each file replaced as a whole: whoever is
killed, and wherever, leaves the rows that were there, and perhaps the new one.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import filter as matching
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


_RESTORE = "Restore the line, or remove it to have the run done again."
_NAMING: dict[str, tuple[Callable[[str], Any], str]] = {
    "scored": (str, "the name of a list"),
    "method": (str, "the name of a method"),
    "labels": (lambda text: text == ALL or int(text), "a whole number, or all"),
    "seed": (int, "a whole number"),
    "minutes": (float, "a number"),
    "threads": (int, "a whole number"),
    "device": (str, "the name of a device"),
    "clock": (str, "the name of a clock"),
}
"""Columns that name a run: how their text is read, and what is expected."""


def run_name(row: Mapping[str, Any]) -> str:
    """What tells the runs of a dataset apart. Rows of one name are of the same run."""
    labels = row["labels"] if row["labels"] == ALL else int(row["labels"])
    given = budget(float(row["minutes"]), row["clock"])
    parts = [row["scored"], str(row["method"]).replace(":", "_"), labels, f"s{int(row['seed'])}"]
    return "-".join(map(str, [*parts, given, f"{int(row['threads'])}t", row["device"]]))


def budget(minutes: float, clock: str) -> str:
    """What a training was given, as names say it."""
    return f"{minutes:g}min" if clock == "wall" else f"{minutes:g}{clock}min"


def read_lines(path: Path, columns: Sequence[str] = ()) -> list[tuple[str, Row]]:
    """The rows without their cases, each with its place, ``line N``; none where there is no such file.

    columns: those that it must have besides those that name a run, which are also checked. Raises InputError.
    """
    lines = _read_csv(path, list(dict.fromkeys([*columns, *_NAMING]))) if path.exists() else []
    for place, row in lines:
        for name, (read, expected) in _NAMING.items():
            _check(path, place, row, name, read, expected)
    return lines


def read_rows(
    path: Path, wanted: Callable[[Row], bool] | None = None, texts: Sequence[str] = (), numbers: Sequence[str] = ()
) -> list[Row]:
    """The rows of a results file with their cases; one that lost its cases does not count.

    wanted: which rows are asked for. texts, numbers: columns that these must have besides those that name a run;
    ``dice_*`` is every one that begins so, and at least one. Raises InputError naming the line and the column.
    """
    found = []
    for place, row in read_lines(path):
        if wanted is not None and not wanted(row):
            continue
        for name in (*texts, *numbers):
            if not matching(row, name):
                raise refuse(path, "columns", f"no {name}", f"{name}, which the table shows", _RESTORE)
        for name in (column for pattern in numbers for column in matching(row, pattern)):
            _check(path, place, row, name, _number, "a number")
        if cases := _cases(path, row):
            found.append({**row, CASES: cases})
    return found


def read_columns(path: Path) -> list[str]:
    """The columns of a results file; none where it has no rows."""
    return next((list(row) for _, row in read_lines(path)), [])


def append_row(path: Path, row: Row) -> bool:
    """Add a row and its cases; on disk when this returns. False when the run has its row already, which stays.

    Raises InputError when the file has other columns, or cannot be read.
    """
    columns = [key for key in row if key != CASES]
    cases = _cases_file(path, row)
    cases.parent.mkdir(parents=True, exist_ok=True)
    with waiting_lock(path.with_name(f".{path.name}.lock")):
        there = [other for _, other in read_lines(path)]
        if there and list(there[0]) != columns:
            fix = "Name another --results folder, or bring the file to these columns."
            raise refuse(path, "columns", ", ".join(there[0]), ", ".join(columns), fix)
        if any(run_name(other) == run_name(row) for other in there) and _cases(path, row):
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


def _read_csv(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """The lines of a CSV file under its header, each with its place, ``line N``. columns: those that it must have.

    Raises InputError for what is no such table: it names the line, or the columns that are missing.
    """
    expected = "a table of runs"
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        raise refuse(path, "file", error.strerror, expected, "Give another file, or move what is there.") from None
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise refuse(path, f"line {number}", "bytes that are no UTF-8", "text in UTF-8", "Restore the file.") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[tuple[str, dict[str, str]]] = []
    header: list[str] = []
    try:
        for cells in filter(None, reader):
            place = f"line {reader.line_num}"
            if not header:
                header = cells
                if missing := [name for name in columns if not matching(header, name)]:
                    fix = "Give a table that foveate bench has written, or restore the first line."
                    raise refuse(path, "columns", f"no {', '.join(missing)}", ", ".join(columns), fix)
            elif len(cells) != len(header):
                found = f"{len(cells)} cells, the first {cells[0][:40]!r}"
                raise refuse(path, place, found, f"{len(header)} as in the first line", _RESTORE)
            else:
                lines.append((place, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise refuse(path, f"line {reader.line_num}", str(error), "a whole line of CSV", _RESTORE) from None
    if text and not text.endswith(("\n", "\r")):
        raise refuse(path, f"line {reader.line_num}", "no end of the line", "a whole line", _RESTORE)
    return lines


def _check(path: Path, place: str, row: Row, column: str, read: Callable[[str], Any], expected: str) -> None:
    try:
        read(row[column])
    except ValueError:
        raise refuse(path, f"{place}, column {column}", repr(row[column]), expected, _RESTORE) from None


def _number(text: str) -> float:
    if math.isnan(number := float(text)):
        raise ValueError(text)
    return number


def _cases(path: Path, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The cases of a row; none where their file is not there, or is not what ``append_row`` writes."""
    try:
        found = json.loads(_cases_file(path, row).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _cases_file(path: Path, row: Mapping[str, Any]) -> Path:
    return path.with_name(f"{path.stem}_cases") / f"{run_name(row)}.json"
