"""predictions.csv: read, and refused where a score of it would mean nothing."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.cohort.layout_classes import JOINED
from foveate.errors import InputError, Problem, refuse
from foveate.text import one_form

HEADERS = "case,label and a column for each class, or case,value,low,high"
_VALUES = ("value", "low", "high")
_SHOWN = 3
TOLERANCE = 0.01  # of the sum of a row


@dataclass(frozen=True)
class ClassTable:
    """Probabilities of classes. columns: their names. probabilities: ``[N, K]`` in [0, 1]. labels: as written, or
    empty where the file has no such column."""

    path: Path
    ids: tuple[str, ...]
    columns: tuple[str, ...]
    probabilities: np.ndarray
    labels: tuple[str, ...]

    @property
    def several(self) -> bool:
        """Whether the labels as written are none or several of a case, so that classes do not exclude each other."""
        return any(JOINED in label or not label for label in self.labels)

    @property
    def apart(self) -> bool:
        """Whether every probability stands for itself: most rows do not add up to one, and the labels as written are
        those above one half."""
        off = np.abs(self.probabilities.sum(axis=1) - 1) > TOLERANCE
        above = [{name for name, p in zip(self.columns, row, strict=True) if p > 0.5} for row in self.probabilities]
        told = [{name.strip() for name in label.split(JOINED)} for label in self.labels]
        return bool(off.mean() > 0.5) and told == above


@dataclass(frozen=True)
class ValueTable:
    """Predicted values. values, low, high: ``[N]``; low and high are nan where there is no interval."""

    path: Path
    ids: tuple[str, ...]
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


def read_table(path: Path) -> ClassTable | ValueTable:
    """The predictions in ``path``. Raises InputError naming everything in it that cannot be scored."""
    header, rows = _read(path)
    problems: list[Problem] = []
    ids = [row[header.index("case")] for row in rows]
    seen: set[str] = set()
    twice = [case for case in ids if case in seen or seen.add(case)]  # type: ignore[func-returns-value]
    _note(problems, path, "case", [f"{case!r} more than once" for case in dict.fromkeys(twice)],
          "each case once", "Remove all but one of its rows.")  # fmt: skip
    _note(
        problems,
        path,
        "case",
        ["no name"] * ids.count(""),
        "a case id in every row",
        "Name the case, or remove the row.",
    )
    names = [name for name in header if name not in ("case", "label")]
    valued = "value" in names and set(names) <= set(_VALUES)
    numbers = np.array([[_number(row[header.index(name)]) for name in names] for row in rows]).reshape(len(rows), -1)
    good = np.isfinite(numbers) if valued else (numbers >= 0) & (numbers <= 1)
    if valued and {"low", "high"} <= set(names):
        ends = [names.index("low"), names.index("high")]
        empty = [not any(row[header.index(name)] for name in ("low", "high")) for row in rows]
        good[np.ix_(empty, ends)] = True  # both ends left out: a value without an interval
    odd = [f"{rows[i][header.index(names[k])]!r} for {names[k]} of {ids[i]}" for i, k in np.argwhere(~good)]
    expected = "a number in every cell" if valued else "probabilities from 0 to 1"
    _note(problems, path, "numbers", odd, expected, "Predict these cases again, or correct the cells.")
    if valued:
        value, low, high = (
            numbers[:, names.index(name)] if name in names else np.full(len(rows), np.nan) for name in _VALUES
        )
        swapped = [f"{low[i]:g} to {high[i]:g} for {ids[i]}" for i in np.flatnonzero(low > high)]
        _note(problems, path, "low, high", swapped, "low at most as large as high", "Exchange the two.")
    if problems:
        raise InputError(problems)
    if valued:
        return ValueTable(path, tuple(ids), value, low, high)
    labels = tuple(row[header.index("label")] for row in rows) if "label" in header else ()
    return ClassTable(path, tuple(ids), tuple(names), numbers, labels)


def sums_to_one(table: ClassTable) -> None:
    """Refuse probabilities of exclusive classes that do not add up to one in every row."""
    total = table.probabilities.sum(axis=1)
    problems: list[Problem] = []
    odd = [f"{total[i]:.3g} for {table.ids[i]}" for i in np.flatnonzero(np.abs(total - 1) > TOLERANCE)]
    _note(problems, table.path, "sum of a row's probabilities", odd, "1, as each case has one class",
          "Write a probability for every class, softmax applied.")  # fmt: skip
    if problems:
        raise InputError(problems)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows, every row as long as the header, every cell stripped and in one form of Unicode."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[one_form(cell).strip() for cell in row] for row in csv.reader(file, skipinitialspace=True)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise refuse(path, "file", error, "a UTF-8 CSV file", "Save it as CSV with UTF-8 encoding.") from None
    lines = [row for row in lines if any(row)]
    if not lines:
        raise refuse(path, "file", "nothing", HEADERS, "Write the predictions again with `foveate predict`.")
    header, *rows = lines
    if "case" not in header or not set(header) - {"case", "label"} or "" in header:
        raise refuse(path, "columns", ", ".join(map(repr, header)), HEADERS, "Correct the first line.")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise refuse(path, "columns", f"{', '.join(twice)} twice", "each column once", "Remove one of them.")
    if not rows:
        raise refuse(path, "rows", "none", "a row for each case", "Write the predictions again with `foveate predict`.")
    if short := [number for number, row in enumerate(rows, 2) if len(row) != len(header)]:
        found = f"{len(rows[short[0] - 2])} cells in row {short[0]}" + (
            f" (and {len(short) - 1} such)" * (len(short) > 1)
        )
        raise refuse(path, "rows", found, f"{len(header)} cells", "Complete the row, or quote commas inside a cell.")
    return header, rows


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _note(problems: list[Problem], path: Path, field: str, odd: Sequence[str], expected: str, fix: str) -> None:
    """One problem for all cells that are wrong in the same way, if there are any."""
    if odd:
        more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
        problems.append(Problem(str(path), field, ", ".join(odd[:_SHOWN]) + more, expected, fix))
