"""Boxes beside images: images/CASE.ext, and annotations/CASE.xml (Pascal VOC) or annotations.json (COCO).

An image without annotation is unlabelled; an annotation without a box says that there is nothing to be found. A
dataset.json with nnU-Net's keys may name the channels, and under ``labels`` the classes, whose values do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from foveate.cohort.boxes import Annotation, alike_names, judge_boxes, mask_boxes, read_coco, read_voc
from foveate.cohort.cohort import IGNORE, Box, Case, Cohort
from foveate.cohort.facts import CaseFacts
from foveate.cohort.layout_classes import one_kind_of_file
from foveate.cohort.layout_nnunet import first_images, group_channels
from foveate.cohort.layout_plain import numbered
from foveate.cohort.listing import leaves, list_images, read_channels, read_classes, read_patients, recorded_patients
from foveate.errors import InputError, Problem
from foveate.io import PICTURE_SUFFIXES, case_stem, image_suffix, read_label
from foveate.text import one_form

VOC, COCO = "annotations", "annotations.json"


def has_boxes(root: Path) -> bool:
    """Whether annotations lie beside the images of a dataset folder."""
    return (root / COCO).is_file() or any((root / VOC).glob("*.xml"))


def find_boxes(root: Path, data: dict[str, Any] | None) -> Cohort:
    """Files of boxes are opened by ``open_annotations``, all but the one of COCO, which alone says whose boxes it has.

    Classes stay empty where nothing declares them: the check reads them off the boxes.
    """
    path, data = root / "dataset.json", data or {}
    problems: list[Problem] = []
    channels = read_channels(path, data["channel_names"], "channel_names", problems) if "channel_names" in data else ()
    names = read_classes(path, data["labels"], problems, zero=True)[0] if "labels" in data else {}
    images = list_images(root / "images", root, problems)
    groups = group_channels(images, problems) if numbered(images, []) else {case_stem(i): {0: i} for i in images}
    problems += one_kind_of_file(root / "images", images)
    files: dict[str, Path] = {}
    targets: dict[str, Annotation] = {}
    if (root / COCO).is_file():
        for name, annotation in read_coco(root / COCO, problems).items():
            _put(targets, case_stem(name), annotation, groups, root / COCO, name, problems)
    else:
        for file in sorted((root / VOC).glob("*.xml")):
            if file.name.startswith("."):
                continue
            if leaves(file, root):
                fix = "Copy the file into the dataset folder."
                problems.append(Problem(str(file), "link", "a link out of the dataset", f"files inside {root}", fix))
            else:
                _put(files, one_form(file.stem), file, groups, file, file.name, problems)
    patients = read_patients(root, groups, problems, recorded_patients(first_images(groups)))
    pictures = any(image_suffix(image) in PICTURE_SUFFIXES for image in images)
    cases = tuple(
        Case(case, tuple(paths[n] for n in sorted(paths)), files.get(case), patients[case], target=targets.get(case))
        for case, paths in sorted(groups.items())
    )
    classes: dict[str, int | tuple[int, ...]] = {name: number for number, name in enumerate(names)}
    dims = 2 if pictures else 3
    return Cohort(root, "boxes", dims, cases, channels, classes, None, tuple(problems), task="detection")


def _put(
    found: dict[str, Any],
    case: str,
    what: Any,
    cases: dict[str, Any],
    file: Path,
    name: str,
    problems: list[Problem],
) -> None:
    if case in found:
        problems.append(Problem(str(file), name, f"a second annotation of {case}", "one for each image", "Remove one."))
    elif case not in cases:
        fix = "Add the image, or remove the annotation."
        problems.append(Problem(str(file), name, "an annotation without image", f"images/{case}", fix))
    else:
        found[case] = what


def open_annotations(cohort: Cohort) -> tuple[Cohort, list[Problem]]:
    """The cohort with what the files of its labelled cases say as their targets; label maps stay files."""
    cases, problems = [], []
    for case in cohort.cases:
        if case.label is None or image_suffix(case.label):
            cases.append(case)
            continue
        try:
            cases.append(replace(case, label=None, target=read_voc(case.label)))
        except InputError as error:
            problems += [replace(problem, case=case.id) for problem in error.problems]
            cases.append(replace(case, label=None))
    return replace(cohort, cases=tuple(cases)), problems


def settle_boxes(cohort: Cohort, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Cohort, list[Problem]]:
    """Targets that can be used: of every labelled case its boxes, judged, and the classes numbered from 0.

    shapes: of every image that could be read, by case; the others lose their label.
    """
    cases, problems = [], []
    maps = {case.id: case.label for case in cohort.labelled if case.label and case.id in shapes}
    values = cohort.classes
    if maps and not values:  # each map is read once more below: all of them would fill the memory
        found = sorted({int(v) for file in maps.values() for v in np.unique(read_label(file).array)} - {0, IGNORE})
        values = {f"class {value}": value for value in found}
    annotations: dict[str, Annotation] = {}
    for case in cohort.labelled:
        if case.id in maps:
            boxes = mask_boxes(read_label(maps[case.id]).array[0], values)
            annotations[case.id] = Annotation(boxes, source=case.label)
        elif case.id in shapes:
            annotations[case.id] = case.target
    names = [box.name for annotation in annotations.values() for box in annotation.boxes]
    problems += alike_names(names, cohort.root)
    for case in cohort.cases:
        target: tuple[Box, ...] | None = None
        if case.id in annotations:
            annotation = annotations[case.id]
            target, found_here = judge_boxes(annotation, shapes[case.id], annotation.source or cohort.root, values)
            problems += [replace(problem, case=case.id) for problem in found_here]
        cases.append(replace(case, label=None, target=target))
    classes: dict[str, int | tuple[int, ...]]
    classes = {name: number for number, name in enumerate(values or sorted(set(names)))}
    return replace(cohort, cases=tuple(cases), classes=classes, ignore=None, tree={}), problems


def shortest_sides(cohort: Cohort, facts: dict[str, CaseFacts]) -> dict[str, np.ndarray]:
    """Of every class the shortest sides of its boxes in mm (pixels for pictures)."""
    found: dict[str, list[float]] = {name: [] for name in cohort.classes}
    for case in cohort.labelled:
        if case.id in facts:
            spacing = facts[case.id].spacing
            for box in case.target:
                low, high = np.split(np.array(box.edges), 2)
                found[box.name].append(float(((high - low) * spacing).min()))
    return {name: np.array(sides) for name, sides in found.items()}
