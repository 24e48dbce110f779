"""Rows of finished runs: a CSV with one line each, and the Dice of every test case in a JSON file beside it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.files import write_atomic

CASES = "cases"  # {case id: [Dice of each class]}; kept in JSON, not in the CSV


def run_name(row: Mapping[str, Any]) -> str:
    """What tells runs apart: dataset, method, labels, seed and minutes. Rows of one name are of the same run."""
    return f"{row['dataset']}-{row['method']}-{int(row['labels'])}-s{int(row['seed'])}-{float(row['minutes']):g}min"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file with their cases; one that lost its cases does not count."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(row, _cases_file(path, row)) for row in csv.DictReader(file)]
    return [{**row, CASES: json.loads(file.read_text(encoding="utf-8"))} for row, file in rows if file.exists()]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row and its cases; on disk when this returns, or not at all.

    Raises ValueError when the file has other columns.
    """
    columns = [key for key in row if key != CASES]
    content = path.read_text(encoding="utf-8") if path.exists() else _line(columns)
    if next(csv.reader(io.StringIO(content))) != columns:
        raise ValueError(f"{path}: its columns are not {', '.join(columns)}")
    cases = _cases_file(path, row)
    cases.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f" {json.dumps(case)}: {json.dumps(dice)}" for case, dice in sorted(row[CASES].items()))
    write_atomic(cases, f"{{\n{lines}\n}}\n")
    write_atomic(path, content + _line([row[column] for column in columns]))


def _line(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _cases_file(path: Path, row: Mapping[str, Any]) -> Path:
    return path.with_name(f"{path.stem}_cases") / f"{run_name(row)}.json"
