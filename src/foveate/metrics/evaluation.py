"""Label maps against labels: find the pairs, refuse what cannot be compared, score the rest."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from foveate.cohort.tree import coarse_values, leaf_classes
from foveate.errors import InputError, Problem, refuse
from foveate.files import make_folder
from foveate.io import PICTURE_SUFFIXES, image_suffix, inspect_label
from foveate.io.files import grid_difference
from foveate.metrics.case import ABSENT, CaseScores, Classes, ClassScore, score_case
from foveate.metrics.overlap import IGNORE, values_present
from foveate.metrics.pairs import References, find_references, match_predictions
from foveate.metrics.result import Evaluation


def evaluate_labels(
    predictions: Path | str,
    labels: Path | str,
    *,
    json: Path | str | None = None,
    classes: Classes | None = None,
    tolerance_mm: float = 1.0,
    cases: Sequence[str] | None = None,
    workers: int | None = None,
) -> Evaluation:
    """Score label maps against references: Dice, HD95, average surface distance, surface Dice.

    predictions: folder of label maps named as the label files, or one file.
    labels: folder of label files, a dataset folder (labelsTr/ or labels/), or one file.
    json: where to write the result. classes: foreground name -> value or values; by default those that
        dataset.json declares, else every value in the references.
    tolerance_mm: of the surface Dice; pixels for pictures. cases: only these ids. workers: threads.

    With a label tree the leaves are scored. Where a reference stops at a node above them, the case says nothing of the
    classes below it: they do not apply to it, and neither do the voxels that it labels so.

    A case without a prediction, and a structure that only one of the two has, count: Dice 0, surface Dice 0,
    distances as long as the image's diagonal. A class that neither has does not apply to that case. Voxels
    labelled 255 (or the dataset's ignore value) are left out. patients.csv beside the labels groups the
    cases for the intervals.

    Raises InputError listing every file that cannot be scored: unreadable, on another grid, or with values
    outside the classes.
    """
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise refuse("tolerance_mm", "value", tolerance_mm, "a length of 0 mm or more", "Give another tolerance.")
    target = writable(json)
    references = find_references(Path(labels))
    ids = _chosen(references, cases, Path(labels))
    files = match_predictions(Path(predictions), references)
    tree = {} if classes else references.tree
    coarse = {} if classes else coarse_values(references.classes or {}, tree)
    classes = classes or (leaf_classes(references.classes, tree) if references.classes else None)
    ignore = {IGNORE} | ({references.ignore} if references.ignore is not None else set())

    def score(case: str) -> _Scored:
        return _score_files(case, files.get(case), references.files[case], classes, coarse, ignore, tolerance_mm)

    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        scored = list(pool.map(score, ids))
    names, problems = _settle_classes(scored, classes, Path(labels))
    problems += [problem for item in scored for problem in item.problems]
    if any(problem.severity == "refuse" for problem in problems):
        raise InputError(problem for problem in problems if problem.severity == "refuse")
    problems += references.problems
    problems += [_extra(files[case]) for case in files if case not in references.files]
    rows = [
        CaseScores(
            item.case,
            references.patients.get(item.case, item.case),
            {name: item.scores.get(name, ABSENT) for name in names},
            predicted=item.case in files,
        )
        for item in scored
    ]
    pictures = all(image_suffix(references.files[case]) in PICTURE_SUFFIXES for case in ids)
    evaluation = Evaluation(_worst_first(rows), tuple(names), "px" if pictures else "mm", tolerance_mm, tuple(problems))
    if target is not None:
        evaluation.write(target)
    return evaluation


@dataclass
class _Scored:
    """What one pair of files gave. true, predicted: label value -> voxels, before anything is judged."""

    case: str
    scores: dict[str, ClassScore] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    reference_values: set[int] = field(default_factory=set)
    prediction_values: dict[int, int] = field(default_factory=dict)
    prediction: Path | None = None


def _score_files(
    case: str,
    prediction: Path | None,
    reference: Path,
    classes: Classes | None,
    coarse: dict[int, set[str]],
    ignore: set[int],
    tolerance: float,
) -> _Scored:
    """Read and score one pair. Without declared classes every value that occurs is a class of its own.

    coarse: label value -> the classes among which it leaves open what a voxel is.
    """
    out = _Scored(case, prediction=prediction)
    true, found = inspect_label(reference)
    out.problems += found
    guess = None
    if prediction is not None:
        guess, found = inspect_label(prediction)
        out.problems += found
    if true is None or (guess is None and prediction is not None):
        return out
    if guess is not None and (difference := grid_difference(guess, true)):
        out.problems.append(difference)
    there = values_present(true.array)
    out.reference_values = there.keys() - ignore - {0}
    out.prediction_values = values_present(guess.array) if guess is not None else {}
    out.prediction_values.pop(0, None)
    local = classes
    if classes is None:
        local = {str(v): v for v in sorted(out.reference_values | (out.prediction_values.keys() - ignore))}
    else:
        out.problems += _stray(there, _members(classes) | coarse.keys() | ignore | {0}, reference, case)
    allowed = _members(local or {})
    out.problems += _stray(out.prediction_values, allowed, prediction or reference, case)
    if any(problem.severity == "refuse" for problem in out.problems):
        return out
    predicted = guess.array[0] if guess is not None else None
    # A coarse value leaves open the classes below it: in this case neither they nor its voxels are scored.
    left_open = set().union(*(names for value, names in coarse.items() if value in there))
    local = {name: value for name, value in (local or {}).items() if name not in left_open}
    truth, ignore = true.array[0], ignore | coarse.keys()
    if unscored := sorted(allowed - _members(local)):
        predicted = predicted if predicted is None else np.where(np.isin(predicted, unscored), 0, predicted)
        truth = np.where(np.isin(truth, unscored), 0, truth)
    out.scores = score_case(predicted, truth, true.spacing, local, ignore=ignore, tolerance=tolerance)
    return out


def _settle_classes(scored: list[_Scored], classes: Classes | None, labels: Path) -> tuple[list[str], list[Problem]]:
    """Class names, and predictions with a value that no reference holds when nothing declares the classes."""
    if classes is not None:
        return list(classes), []
    values = set().union(*(item.reference_values for item in scored))
    if not values:
        if any(problem.severity == "refuse" for item in scored for problem in item.problems):
            return [], []
        raise refuse(
            labels,
            "label values",
            f"only 0 and {IGNORE} (ignored)",
            "at least one structure",
            f"Store masks with the class number as value; {IGNORE} means `no information`.",
        )
    stray = [
        problem
        for item in scored
        if item.prediction is not None
        for problem in _stray(item.prediction_values, values | {IGNORE}, item.prediction, item.case)
    ]
    return [str(value) for value in sorted(values)], stray


def _stray(found: dict[int, int], allowed: set[int], path: Path, case: str) -> list[Problem]:
    odd = {value: count for value, count in found.items() if value not in allowed}
    if not odd:
        return []
    return [
        Problem(
            str(path),
            "label values",
            ", ".join(f"{value} ({count} voxels)" for value, count in sorted(odd.items())[:5]),
            "one of " + ", ".join(map(str, sorted(allowed))),
            "Map the values to the classes, or correct the classes.",
            case=case,
        )
    ]


def _members(classes: Classes) -> set[int]:
    return {v for value in classes.values() for v in ((value,) if isinstance(value, int) else value)}


def _extra(path: Path) -> Problem:
    return Problem(str(path), "case id", "a prediction without a label", "a label file of that name",
                   "It was left out.", "warn", path.name)  # fmt: skip


def _worst_first(rows: list[CaseScores]) -> tuple[CaseScores, ...]:
    def rank(case: CaseScores) -> tuple[bool, float, float, str]:
        dice, distance = case.mean("dice"), case.mean("hd95")
        return (True, 0.0, 0.0, case.id) if math.isnan(dice) else (False, dice, -distance, case.id)

    return tuple(sorted(rows, key=rank))


def _chosen(references: References, cases: Sequence[str] | None, labels: Path) -> list[str]:
    if cases is None:
        return list(references.files)
    unknown = [case for case in cases if case not in references.files]
    if unknown or not cases:
        raise refuse(labels, "cases", ", ".join(unknown[:5]) or "no id", "ids of label files", "Correct the ids.")
    return list(dict.fromkeys(cases))


def writable(path: Path | str | None) -> Path | None:
    """The file to write to, in a folder that is there. Raises InputError for a folder and Unwritable: before the work,
    not after it."""
    if path is None:
        return None
    if Path(path).is_dir():
        raise refuse(path, "--json", "a folder", "a file name", "Add a name such as scores.json.")
    make_folder(Path(path).parent)
    return Path(path)
