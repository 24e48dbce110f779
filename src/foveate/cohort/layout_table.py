"""A table of labels: images/CASE.ext and labels.csv, one line for each labelled case.

Columns: ``case``, then ``label`` (a class, or several joined by ``;``), or ``value`` (a number), or a column for each
class with 0 or 1; ``patient`` if patients have several cases. A case without a line, or with an empty cell, is
unlabelled. A dataset.json with nnU-Net's keys may name the channels.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foveate.cohort.cohort import Case, Cohort, TaskName
from foveate.cohort.layout_classes import JOINED, judge_names, one_kind_of_file
from foveate.cohort.layout_nnunet import first_images, group_channels
from foveate.cohort.layout_plain import numbered
from foveate.cohort.listing import (
    list_images,
    no_longer_than_header,
    read_channels,
    read_patients,
    recorded_patients,
    some,
)
from foveate.errors import Problem, refuse
from foveate.io import PICTURE_SUFFIXES, case_stem, image_suffix
from foveate.text import closest, one_form

TABLE = "labels.csv"
LARGEST = 1e18  # of numbers to predict, as of intensities: squares of larger ones leave float32
OTHER = ("case", "patient")  # columns that are no label


def tasks_of_table(root: Path) -> tuple[TaskName]:
    """What the table's columns are of. Raises InputError when there are no columns that say it."""
    columns, _ = read_table(root / TABLE)
    return ("regression",) if "value" in columns else ("classification",)


def find_table(root: Path, data: dict[str, Any] | None) -> Cohort:
    """Channels stay empty where nothing declares them; the check reads them off the files."""
    path, data = root / TABLE, data or {}
    problems: list[Problem] = []
    images = list_images(root / "images", root, problems)
    groups = group_channels(images, problems) if numbered(images, []) else {case_stem(i): {0: i} for i in images}
    problems += one_kind_of_file(root / "images", images)
    declared = data.get("channel_names")
    channels = read_channels(root / "dataset.json", declared, "channel_names", problems) if declared else ()
    columns, lines = read_table(path)
    rows = _rows_of_cases(path, lines, groups, problems)
    task, names, exclusive = tasks_of_table(root)[0], list[str](), True
    targets: dict[str, Any] = {}
    if task == "regression":
        targets = {case: _number(path, case, row["value"], problems) for case, row in rows.items()}
    else:
        labels = _joined(rows) if "label" in columns else _ticked(path, columns, rows, problems)
        exclusive = "label" in columns and all(len(label) == 1 for label in labels.values() if label is not None)
        names = sorted({name for label in labels.values() for name in label or ()})
        if "label" not in columns:
            names = [column for column in columns if column not in OTHER]
        problems += judge_names(path, names)
        targets = dict(labels)
    patients = _patients(path, root, rows, groups, columns, problems)
    pictures = any(image_suffix(image) in PICTURE_SUFFIXES for image in images)
    cases = tuple(
        Case(case, tuple(files[n] for n in sorted(files)), None, patients[case], target=targets.get(case))
        for case, files in sorted(groups.items())
    )
    classes: dict[str, int | tuple[int, ...]] = {name: number for number, name in enumerate(names)}
    dims = 2 if pictures else 3
    return Cohort(root, "table", dims, cases, channels, classes, None, tuple(problems), task=task, exclusive=exclusive)


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows, in one form of Unicode, white space around cells removed and the labels of a case in order.

    Raises InputError when it is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [one_form(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = []
            for row in reader:
                no_longer_than_header(path, reader.line_num, row)
                cells = {name: one_form(row.get(name) or "").strip() for name in columns}
                if "label" in cells:
                    cells["label"] = JOINED.join(sorted({part.strip() for part in cells["label"].split(JOINED)} - {""}))
                rows.append(cells)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise refuse(path, "file", error, "a UTF-8 CSV file", "Save it as CSV with UTF-8 encoding.") from None
    said = [name for name in columns if name not in OTHER]
    if "case" not in columns or not said or {"label", "value"} <= set(columns) or len(set(columns)) < len(columns):
        expected = "case,label or case,value or case and a column of 0 and 1 for each class; patient beside them"
        raise refuse(path, "columns", ", ".join(columns) or "nothing", expected, "Correct the first line.")
    if not {"label", "value"} & set(columns):
        _refuse_numbers(path, said, rows)
    return columns, rows


def _refuse_numbers(path: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    """Refuse a column that is not called ``value`` and holds numbers that are no marks of a class."""
    for column in columns:
        cells = [row[column] for row in rows if row[column]]
        numbers = [cell for cell in cells if cell not in ("0", "1") and _value(cell) is not None]
        if 2 * len(numbers) > len(cells):
            expected = "a column called value for numbers to predict, or 0 and 1 in a column for each class"
            fix = "Call the column value, and leave out others but case and patient."
            raise refuse(path, f"column {column}", f"numbers such as {numbers[0]}", expected, fix)


def _rows_of_cases(
    path: Path, rows: Sequence[dict[str, str]], groups: dict[str, Any], problems: list[Problem]
) -> dict[str, dict[str, str]]:
    """Row of each case; a name may carry the image's suffix. Rows without a file are refused, cases without said."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        name = row["case"]
        name = name if name in groups else case_stem(name)
        if name not in groups:
            fix = f"Add the file to images/, or remove the line. {closest(name, groups)}"
            problems.append(Problem(str(path), "case", f"{row['case']!r}, which has no file", "a case of images/", fix))
        elif name in found and found[name] != row:
            problems.append(Problem(str(path), f"lines of {name}", "two that differ", "one", "Remove the wrong line."))
        found.setdefault(name, row)
    found = {name: row for name, row in found.items() if name in groups}
    if without := sorted(set(groups) - set(found)):
        text, fix = f"no line for {len(without)} cases ({some(without)})", "They count as unlabelled."
        problems.append(Problem(str(path), "case", text, "a line for each labelled case", fix, "warn"))
    return found


def _number(path: Path, case: str, text: str, problems: list[Problem]) -> float | None:
    if not text:
        return None
    value = _value(text)
    if value is not None:
        return value
    fix = "Write the number with a decimal point; leave the cell empty if it is not known."
    expected = f"a number below {LARGEST:g} in size"
    problems.append(Problem(str(path), f"value of {case}", repr(text), expected, fix, case=case))
    return None


def _value(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < LARGEST else None  # which NaN is not either


def _joined(rows: dict[str, dict[str, str]]) -> dict[str, tuple[str, ...] | None]:
    """Classes of each case from the column ``label``."""
    return {case: tuple(row["label"].split(JOINED)) if row["label"] else None for case, row in rows.items()}


def _ticked(
    path: Path, columns: Sequence[str], rows: dict[str, dict[str, str]], problems: list[Problem]
) -> dict[str, tuple[str, ...] | None]:
    """Classes of each case from a column of 0 and 1 for each class; a row of empty cells is unlabelled."""
    names = [column for column in columns if column not in OTHER]
    labels: dict[str, tuple[str, ...] | None] = {}
    for case, row in rows.items():
        wrong = [name for name in names if row[name] not in ("0", "1")]
        if len(wrong) == len(names) and not any(row[name] for name in names):
            labels[case] = None
        elif wrong:
            fix = "Write 0 or 1 in every column of the line, or leave all of them empty."
            found = f"{row[wrong[0]]!r} in column {wrong[0]}"
            problems.append(Problem(str(path), f"line of {case}", found, "0 or 1", fix, case=case))
        else:
            labels[case] = tuple(name for name in names if row[name] == "1")
    return labels


def _patients(
    path: Path,
    root: Path,
    rows: dict[str, dict[str, str]],
    groups: dict[str, Any],
    columns: Sequence[str],
    problems: list[Problem],
) -> dict[str, str]:
    """From the column ``patient``; where there is none from patients.csv, or from what DICOM says."""
    if "patient" not in columns:
        return read_patients(root, groups, problems, recorded_patients(first_images(groups)))
    listed = {case: row["patient"] for case, row in rows.items() if row["patient"]}
    if without := sorted(set(groups) - set(listed)):
        fix = "Each counts as a patient of its own; add lines (with an empty label) if patients have several scans."
        found = f"none for {len(without)} cases ({some(without)})"
        problems.append(Problem(str(path), "patient", found, "a patient for every case", fix, "warn"))
    return {case: listed.get(case, f"case {case}") for case in groups}
