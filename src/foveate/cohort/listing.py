"""Files of a dataset folder: which are images, which must not be followed, and what the side files say."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from foveate.errors import Problem, refuse
from foveate.io import IMAGE_SUFFIXES, case_stem, image_suffix, is_series
from foveate.io.dicom_series import first_header
from foveate.text import one_form


def list_images(folder: Path, root: Path, problems: list[Problem]) -> list[Path]:
    """Image files and folders of a DICOM series directly in ``folder``, sorted by name; no image is read.

    macOS "._*" files are skipped with a warning, other hidden files silently, and files of other kinds with a
    warning. Refused, and noted in ``problems``: links that leave ``root``, names that differ by case only, two
    files of one case.
    """
    images, others, resource_forks = [], [], []
    if leaves(folder, root):
        problems.append(_outside(folder, root))
        return []
    try:
        entries = sorted(os.scandir(folder), key=lambda item: item.name)
    except OSError as error:
        raise refuse(
            folder, "folder", error.strerror, "a folder that can be listed", "Check its permissions."
        ) from None
    for entry in entries:
        path = Path(entry.path)
        check_name(path)
        if entry.name.startswith("._"):
            resource_forks.append(entry.name)
        elif entry.name.startswith(".") or entry.name.lower() == "thumbs.db":
            continue
        elif entry.is_dir():
            if entry.is_symlink() and leaves(path, root):
                problems.append(_outside(path, root))
            elif is_series(path):
                images.append(path)
        elif not image_suffix(path):
            others.append(entry.name)
        elif entry.is_symlink() and leaves(path, root):
            problems.append(_outside(path, root))
        else:
            images.append(path)
    if resource_forks:
        fix = "They are skipped. 'dot_clean' removes them on a Mac."
        found = f"{len(resource_forks)} macOS resource files ({some(resource_forks)})"
        problems.append(Problem(str(folder), "files", found, "image files only", fix, "warn"))
    if others:
        found = f"{len(others)} files of other kinds ({some(others)})"
        expected = ", ".join(IMAGE_SUFFIXES)
        problems.append(Problem(str(folder), "files", found, expected, "They are not read.", "warn"))
    problems += _name_clashes(folder, images)
    return images


def check_name(path: Path) -> None:
    """Raise InputError for a file whose name is no text: no table, picture or message could hold it."""
    shown = str(path).encode(errors="backslashreplace").decode()
    if shown != str(path):
        raise refuse(shown, "name", "bytes that are no UTF-8", "a name of letters", "Rename the file.")


def leaves(path: Path, root: Path) -> bool:
    """Whether a path, links followed, lies outside the dataset folder."""
    return not path.resolve().is_relative_to(root.resolve())


def _outside(path: Path, root: Path) -> Problem:
    return Problem(
        str(path),
        "link",
        f"a link to {path.resolve()}",
        f"files inside {root}",
        "Copy the files into the dataset folder, or link the whole dataset folder in place of single files.",
    )


def _name_clashes(folder: Path, images: list[Path]) -> list[Problem]:
    problems = []
    by_case: dict[str, list[str]] = defaultdict(list)
    for path in images:
        by_case[case_stem(path).casefold()].append(path.name)
    for names in by_case.values():
        if len(names) > 1:
            same = len({case_stem(name) for name in names}) == 1
            field = "files" if same else "names that differ by case only"
            fix = "Keep one of them." if same else "Rename one: they are one file on Windows and macOS."
            problems.append(Problem(str(folder), field, " and ".join(names), "one file for each case", fix))
    return problems


def some(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises InputError for a key that it has twice, of which the first would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        key = next(key for key, count in counts.items() if count > 1)
        raise refuse(
            path, "JSON", f"{key!r} {counts[key]} times in one object", "every key once", "Remove the wrong one."
        )
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError when the file is broken or holds something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=partial(_once, path))
    except (ValueError, RecursionError) as error:  # of numbers with thousands of digits too
        fix = "Correct the file at this place."
        raise refuse(path, "JSON", " ".join(str(error).split()), "valid JSON", fix) from None
    except OSError as error:
        raise refuse(path, "file", error.strerror, "a readable file", "Check its permissions.") from None
    if not isinstance(data, dict):
        raise refuse(path, "JSON", f"a {type(data).__name__}", "an object {...}", "See docs for the three layouts.")
    return data


def read_channels(path: Path, value: object, field: str, problems: list[Problem]) -> tuple[str, ...]:
    """Channel names in order from ``{"0": "CT", "1": ...}``; mistakes are noted and give an empty tuple."""
    expected = '{"0": name, "1": name, ...}'
    fix = "Number the channels from 0 without gaps."
    if not isinstance(value, dict) or not value:
        problems.append(Problem(str(path), field, _short(value), expected, fix))
        return ()
    wanted = {str(number) for number in range(len(value))}
    if set(value) != wanted or not all(isinstance(name, str) and name for name in value.values()):
        problems.append(Problem(str(path), field, _short(value), expected, fix))
        return ()
    return tuple(value[str(number)] for number in range(len(value)))


def class_value(value: object) -> int | tuple[int, ...] | None:
    """A label value or, for a region, several of them; None when it is neither."""
    if isinstance(value, list) and value:
        parts = [class_value(part) for part in value]
        flat = [part for part in parts if isinstance(part, int)]
        return tuple(flat) if len(flat) == len(parts) else None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 255:
        return None
    return value


def read_classes(
    path: Path, value: object, problems: list[Problem], zero: bool = False
) -> tuple[dict[str, int | tuple[int, ...]], int | None]:
    """Foreground classes and the ignore value from nnU-Net's ``labels {name: value or [values]}``.

    zero: the value 0 is a class like others, unless it is called background; in label maps it is what no class has.
    """
    classes: dict[str, int | tuple[int, ...]] = {}
    ignore = None
    if not isinstance(value, dict) or not value:
        expected = '{"background": 0, "name": 1, ...}'
        problems.append(Problem(str(path), "labels", _short(value), expected, "Name the classes."))
        return {}, None
    for name, given in value.items():
        number = class_value(given)
        if number is None:
            expected = "a whole number from 0 to 255, or a list of them for a region"
            fix = "Write label values as numbers: nnU-Net maps name to value, MSD value to name."
            problems.append(Problem(str(path), f"labels.{name}", _short(given), expected, fix))
        elif name == "ignore":
            if isinstance(number, int):
                ignore = number
            else:
                problems.append(Problem(str(path), "labels.ignore", _short(given), "one value", "Give one number."))
        elif number not in (0, (0,)) or (zero and name.strip().casefold() != "background"):
            classes[one_form(name)] = number
    problems += _class_clashes(path, classes, ignore)
    return classes, ignore


def _class_clashes(path: Path, classes: dict[str, int | tuple[int, ...]], ignore: int | None) -> list[Problem]:
    problems = []
    seen: dict[object, str] = {}
    for name, value in classes.items():
        if value in seen:
            found = f"{value}, the value of {seen[value]!r} too"
            fix = "Give each class a value of its own."
            problems.append(Problem(str(path), f"labels.{name}", found, "one name for each value", fix))
        seen[value] = name
        values = value if isinstance(value, tuple) else (value,)
        if ignore in values or 255 in values:
            found = f"{value}, which marks voxels to ignore"
            problems.append(Problem(str(path), f"labels.{name}", found, "another value", "Renumber the class."))
    sets = {name: set(value) if isinstance(value, tuple) else {value} for name, value in classes.items()}
    for (first, a), (second, b) in itertools.combinations(sets.items(), 2):
        if a & b and not (a <= b or b <= a):
            found = f"{sorted(a)} and {sorted(b)}, which overlap in {sorted(a & b)}"
            expected = "regions that lie inside each other, or apart"
            fix = "One voxel is written as one value, so such regions could not be told apart again."
            problems.append(Problem(str(path), f"labels.{first}, labels.{second}", found, expected, fix))
    if not classes:
        problems.append(Problem(str(path), "labels", "no foreground class", "at least one", "Name the classes."))
    return problems


def no_longer_than_header(path: Path, line: int, row: Mapping[Any, Any]) -> None:
    """Raises InputError for a row of csv.DictReader with more cells than columns, which would be dropped unseen."""
    if more := row.get(None):
        columns = len(row) - 1
        fix = "Write decimal points, join labels by ; and put text that holds commas into quotes."
        raise refuse(path, f"line {line}", f"{columns + len(more)} cells", f"{columns}, as the first line has", fix)


def read_patients(
    root: Path, ids: Iterable[str], problems: list[Problem], recorded: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Patient of each case from ``patients.csv`` (columns case, patient).

    Without it the cases with one PatientID are of one patient, and every other is its own. recorded: what DICOM says.
    """
    known = set(ids)
    path = root / "patients.csv"
    if not path.is_file():
        return _recorded_patients(root, sorted(known), problems, recorded or {})
    listed: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            if not {"case", "patient"} <= set(columns):
                found = ", ".join(columns) or "nothing"
                raise refuse(path, "columns", found, "case,patient", "Write 'case,patient' on the first line.")
            for row in reader:
                no_longer_than_header(path, reader.line_num, row)
                case, patient = (one_form(row[name] or "").strip() for name in ("case", "patient"))
                if case and patient and listed.setdefault(case, patient) != patient:
                    found = f"{listed[case]} and {patient}"
                    problems.append(
                        Problem(str(path), f"patient of {case}", found, "one patient", "Remove the wrong line.")
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise refuse(path, "file", error, "a UTF-8 CSV file", "Save it as CSV with UTF-8 encoding.") from None
    unknown = sorted(set(listed) - known)
    if unknown:
        found = f"{len(unknown)} names that are no case ({some(unknown)})"
        fix = "These lines have no effect; check the spelling."
        problems.append(Problem(str(path), "case", found, "case ids of this dataset", fix, "warn"))
    missing = sorted(known - set(listed))
    if missing:
        found = f"no line for {len(missing)} cases ({some(missing)})"
        fix = "Each counts as a patient of its own; add lines if patients have several scans."
        problems.append(Problem(str(path), "patient", found, "a line for every case", fix, "warn"))
    # A case without a line gets a name that no listed patient can have.
    return {case: listed.get(case, f"case {case}") for case in known}


def recorded_patients(images: Mapping[str, Path]) -> dict[str, str]:
    """PatientID of each case whose first image, of ``images``, is a DICOM series that says one."""
    headers = {case: first_header(image) for case, image in images.items() if is_series(image)}
    return {case: header.patient for case, header in headers.items() if header}


def _recorded_patients(
    root: Path, ids: Iterable[str], problems: list[Problem], recorded: Mapping[str, str]
) -> dict[str, str]:
    """Patients are called by the first of their cases: what identifies a person leaves the scan in no file."""
    groups: dict[str, list[str]] = defaultdict(list)
    for case in ids:
        groups[recorded.get(case) or f"case {case}"].append(case)
    for cases in groups.values():
        if len(cases) > 1:
            found = f"one for {len(cases)} cases ({some(cases)})"
            fix = "They count as one patient. If PatientID was only made anonymous, say in patients.csv who is who."
            problems.append(Problem(str(root), "PatientID", found, "one for each patient", fix, "warn"))
    return {case: cases[0] for cases in groups.values() for case in cases}


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
