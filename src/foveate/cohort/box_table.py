"""Boxes in place of labels, and masks without images: ``boxes.csv`` and ``masks/`` of a dataset folder.

boxes.csv: a line for each box, ``case,class,low_0,low_1[,low_2],high_0,high_1[,high_2]``. class: its name, or its value
in labels. low, high: where it begins and ends along each array axis of the image as stored, in voxels from the outer
face of the first one: voxel i lies between i and i + 1, so a box of the single voxel 5 is 5 to 6.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foveate.cohort.cohort import IGNORE, Box, Case, Cohort
from foveate.cohort.facts import CaseFacts, file_hash
from foveate.cohort.listing import list_images, no_longer_than_header
from foveate.errors import Problem, refuse
from foveate.io import case_stem, inspect_label
from foveate.text import closest, one_form

BOXES, MASKS = "boxes.csv", "masks"
MOST = 7  # classes with boxes: a bit of 8 for each, and 255 says that nothing is known


def with_boxes(cohort: Cohort) -> Cohort:
    """The cohort with the boxes and the masks that lie in its folder; what is wrong with them is in its problems.

    Raises InputError when boxes.csv cannot be read at all.
    """
    problems = list(cohort.problems)
    folder, path = cohort.root / MASKS, cohort.root / BOXES
    masks = tuple(list_images(folder, cohort.root, problems)) if folder.is_dir() else ()
    boxes = _read(path, cohort, problems) if path.is_file() else {}
    cases = tuple(replace(case, boxes=tuple(boxes.get(case.id, ()))) for case in cohort.cases)
    return replace(cohort, cases=cases, masks=masks, problems=tuple(problems))


def _read(path: Path, cohort: Cohort, problems: list[Problem]) -> dict[str, list[Box]]:
    sides = [[f"{side}_{axis}" for axis in range(cohort.dims)] for side in ("low", "high")]
    wanted = ["case", "class", *sides[0], *sides[1]]
    known = {case.id: case for case in cohort.cases}
    boxes: dict[str, list[Box]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = reader.fieldnames = [(name or "").strip() for name in reader.fieldnames or []]
            if missing := [name for name in wanted if name not in columns]:
                fix = f"Write '{','.join(wanted)}' on the first line."
                raise refuse(path, "columns", f"no {', '.join(missing)}", ",".join(wanted), fix)
            for row in reader:
                no_longer_than_header(path, reader.line_num, row)
                line, name = f"line {reader.line_num}", one_form((row["case"] or "").strip())
                if name not in known:
                    problems.append(
                        Problem(str(path), f"{line}: case", repr(name), "a case with an image", closest(name, known))
                    )
                    continue
                try:
                    low, high = (tuple(float(row[column]) for column in side) for side in sides)
                except (TypeError, ValueError):
                    found = ", ".join(str(row[column]) for column in (*sides[0], *sides[1]))
                    fix = "Write every corner as a number of voxels."
                    problems.append(Problem(str(path), f"{line}: corners", found, "numbers", fix, case=name))
                    continue
                box = Box((*low, *high), one_form(row["class"] or "").strip())
                if not all(a < b for a, b in zip(low, high, strict=True)):
                    fix = "A box of the single voxel 5 goes from 5 to 6."
                    found = f"{low} to {high}, which holds nothing"
                    problems.append(Problem(str(path), f"{line}: size", found, "low < high", fix, case=name))
                else:
                    boxes.setdefault(name, []).append(box)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise refuse(path, "file", error, "a UTF-8 CSV file", "Save it as CSV with UTF-8 encoding.") from None
    return boxes


def number_of(structure: str, classes: Mapping[str, int | tuple[int, ...]]) -> int | None:
    """The place among ``classes`` of the class that a line of boxes.csv names, by its name or its value."""
    for number, (name, value) in enumerate(classes.items()):
        if structure in (name, str(value)):
            return number
    return None


def box_problems(cohort: Cohort, case: Case, fact: CaseFacts | None) -> list[Problem]:
    """Boxes of classes that there are not, and boxes that leave their image."""
    path, problems = str(cohort.root / BOXES), []
    for box in case.boxes:
        if cohort.classes and number_of(box.name, cohort.classes) is None:
            known = ", ".join(f"{name} ({value})" for name, value in cohort.classes.items())
            fix = closest(box.name, cohort.classes)
            problems.append(Problem(path, f"class of {case.id}", repr(box.name), known, fix, case=case.id))
        if fact and not all(a >= 0 and b <= n for a, b, n in zip(box.low, box.high, fact.shape, strict=False)):
            found, size = f"{box.low} to {box.high}", " x ".join(map(str, fact.shape))
            fix = "Count voxels along the array axes of the image as stored; clip the box to the image."
            expected = f"a box inside the image of {size} voxels"
            problems.append(Problem(path, f"box of {case.id}", found, expected, fix, case=case.id))
    return problems


@dataclass(frozen=True)
class Masks:
    """The files of masks/: SHA-256 by name, and the label values that they show."""

    sha256: dict[str, str]
    values: frozenset[int]


def check_masks(cohort: Cohort) -> tuple[Masks, list[Problem]]:
    """Read every mask; all that is wrong with them but their classes, which ``mask_problems`` judges."""
    problems: list[Problem] = []
    hashes, values = {}, set[int]()
    for file in cohort.masks:
        mask, found = inspect_label(file)
        problems += found
        if mask is None:
            continue
        hashes[f"{MASKS}/{case_stem(file)}"] = file_hash([file])
        values |= set(np.unique(mask.array).tolist()) - {0}
        if mask.dims != cohort.dims:
            fix = "Give masks of the same kind as the images."
            problems.append(Problem(str(file), "dimensions", f"{mask.dims}D", f"{cohort.dims}D", fix))
        if not mask.array.any():
            problems.append(Problem(str(file), "mask", "empty", "a structure to learn the shape of", "Remove it."))
    return Masks(hashes, frozenset(values)), problems


def mask_problems(cohort: Cohort, masks: Masks) -> list[Problem]:
    """Values of masks that stand for no class; a mask says of every voxel what it is."""
    known = {part for value in cohort.classes.values() for part in (value if isinstance(value, tuple) else (value,))}
    wrong = sorted(masks.values - known)
    if not (wrong and known):  # without classes the check has said why
        return []
    found, expected = f"values {', '.join(map(str, wrong[:8]))}", f"0, {', '.join(map(str, sorted(known)))}"
    fix = f"Correct the masks, or name the classes in dataset.json; {IGNORE} (unknown) has no place in a mask."
    return [Problem(str(cohort.root / MASKS), "label values", found, expected, fix)]
