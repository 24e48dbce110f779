"""Boxes: predictions.json against what the dataset folder says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from foveate.boxes import SURE
from foveate.cohort.boxes import read_coco
from foveate.cohort.cohort import Box, Cohort
from foveate.cohort.layout_boxes import open_annotations, settle_boxes
from foveate.cohort.layouts import find_cohort
from foveate.cohort.listing import read_json
from foveate.errors import InputError, Problem, refuse
from foveate.io import case_stem, inspect_image
from foveate.metrics.bootstrap import estimates
from foveate.metrics.detection import FROC_IOU, ImageBoxes, detection_scores, match_class, match_sure
from foveate.metrics.task_result import TaskEvaluation
from foveate.metrics.truths import Truths, match_cases
from foveate.text import closest


def evaluate_boxes(path: Path, data: Path, cases: Sequence[str] | None = None) -> TaskEvaluation:
    """Score the predictions.json at ``path`` against the dataset folder ``data``: its labelled cases, or ``cases``.

    Classes that the file alone knows have no structure: what is found of them is false, which is said. Raises
    InputError: a file that is no COCO JSON with scores, a class that it does not know, a case without a prediction, a
    dataset without annotations.
    """
    cohort, problems = _read_truths(data)
    found = _read(path)
    targets: dict[str, Any] = {case.id: case.target for case in cohort.labelled}
    patients = {case.id: case.patient for case in cohort.cases}
    if not targets:
        fix = "Score against the folder that holds the annotations."
        found_none, expected = f"none for {len(cohort.cases)} images", "images with boxes, or said to have none"
        raise refuse(data, "annotations", found_none, expected, fix)
    truths = Truths(data, "detection", targets, patients, tuple(cohort.classes))
    known = dict.fromkeys((*_categories(path), *(name for boxes in found.values() for _, name, _ in boxes)))
    expected = f"the classes of {data}: {', '.join(cohort.classes)}"
    if missing := [name for name in cohort.classes if name not in known]:
        raise refuse(path, "categories", ", ".join(sorted(known)), expected, closest(missing[0], known))
    if odd := [name for name in known if name not in cohort.classes]:
        fix = "They count as classes of which there is nothing to find."
        problems.append(Problem(str(path), "categories", f"also {', '.join(odd)}", expected, fix, "warn"))
    classes = {name: number for number, name in enumerate((*cohort.classes, *odd))}
    names = list(found)
    rows, unmatched = match_cases(path, names, truths, cases)
    for case, row in rows.items():
        if odd_box := next((edges for edges, _, _ in found[names[row]] if len(edges) != 2 * cohort.dims), None):
            expected = f"{2 * cohort.dims}, as the dataset has {cohort.dims} axes"
            raise refuse(
                path, f"bbox of {case}", f"{len(odd_box)} numbers", expected, "Score what was predicted for it."
            )
    images = [
        image_boxes(case, patients[case], targets[case], found[names[row]], classes, cohort.dims)
        for case, row in rows.items()
    ]
    return score_boxes(images, classes, (*unmatched, *problems))


def score_boxes(
    images: Sequence[ImageBoxes], classes: Mapping[str, Any], problems: tuple[Problem, ...] = ()
) -> TaskEvaluation:
    """Scores with intervals over patients; cases worst first, by what is wrong at a score of SURE and an IoU of 0.5."""
    matches = {name: match_class(images, number) for name, number in classes.items()}
    resampled = partial(detection_scores, matches)
    scores = estimates(resampled, [item.patient for item in images])
    rows = [_row(item, classes) for item in images]
    rows.sort(key=lambda row: (-row["missed"] - row["false"], row["case"]))
    details = {"froc_iou": FROC_IOU, "interpolation": "101 recalls", "score_in_cases": SURE}
    ids = tuple(item.case for item in images)
    return TaskEvaluation("detection", scores, tuple(classes), tuple(rows), details, problems, ids, resampled)


def image_boxes(
    case: str,
    patient: str,
    truth: Sequence[Box],
    found: Sequence[tuple[tuple[float, ...], str, float]],
    classes: Mapping[str, Any],
    dims: int,
) -> ImageBoxes:
    """What is known and found in one image; found boxes of other classes are left out."""
    number = {name: value for value, name in enumerate(classes)}
    mine = [item for item in found if item[1] in number]
    return ImageBoxes(
        case,
        patient,
        np.array([box.edges for box in truth], float).reshape(-1, 2 * dims),
        np.array([number[box.name] for box in truth], int),
        np.array([box.ignored for box in truth], bool),
        np.array([edges for edges, _, _ in mine], float).reshape(-1, 2 * dims),
        np.array([number[name] for _, name, _ in mine], int),
        np.array([score for _, _, score in mine], float),
    )


def _row(item: ImageBoxes, classes: Mapping[str, Any]) -> dict[str, Any]:
    boxes = int((~item.ignored).sum())
    return {"case": item.case, "patient": item.patient, "boxes": boxes, **asdict(match_sure(item, classes.values()))}


def _read_truths(data: Path) -> tuple[Cohort, list[Problem]]:
    """The dataset with its boxes, and what is to be known of them. Raises InputError with all that is wrong."""
    cohort, problems = open_annotations(find_cohort(data, "detection"))
    shapes = {}
    for case in cohort.labelled:
        image, found = inspect_image(case.images, len(cohort.channels) or None, case.missing)
        problems += [problem for problem in found if problem.severity == "refuse"]
        if image is not None:
            shapes[case.id] = image.shape
    cohort, found = settle_boxes(cohort, shapes)
    problems = [*cohort.problems, *problems, *found]
    if any(problem.severity == "refuse" for problem in problems):
        raise InputError(problem for problem in problems if problem.severity == "refuse")
    return cohort, problems


def _categories(path: Path) -> list[str]:
    return [str(item.get("name")) for item in read_json(path).get("categories") or ()]


def _read(path: Path) -> dict[str, list[tuple[tuple[float, ...], str, float]]]:
    """Case -> (edges, class, score) of its boxes. Raises InputError for what is no box with a score in [0, 1]."""
    scores = [item.get("score") for item in read_json(path).get("annotations") or () if isinstance(item, dict)]
    wrong = [s for s in scores if isinstance(s, bool) or not isinstance(s, int | float) or not 0 <= s <= 1]
    if wrong:
        expected = "a number from 0 to 1 in every annotation"
        raise refuse(path, "score", repr(wrong[0]), expected, "Write what `foveate predict` writes.")
    found: dict[str, list[tuple[tuple[float, ...], str, float]]] = {}
    problems: list[Problem] = []
    for name, annotation in read_coco(path).items():
        problems += annotation.problems
        case = name[: len(name) - len(Path(name).name)] + case_stem(name)
        found[case] = [(box.edges, box.name, box.score) for box in annotation.boxes]
    if problems:
        raise InputError(problems)
    return found
