"""Boxes of every image of a folder: predictions.json in COCO's form, and a picture of each with its boxes drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveate.cohort.boxes import PREDICTIONS
from foveate.cohort.cohort import Case
from foveate.errors import InputError, Problem
from foveate.files import Unwritable, write_atomic
from foveate.io import image_suffix
from foveate.io.volume import Volume
from foveate.predict.detecting import BoxPredictor
from foveate.tasks import Boxes

PICTURES = "pictures"


def predict_boxes(
    predictor: BoxPredictor,
    cases: Sequence[Case],
    out: Path,
    *,
    mirror: bool = False,
    progress: Callable[[int, int], None] | None = None,
    said: list[Problem] | None = None,
) -> list[Path]:
    """Write ``out/predictions.json``, or ``out`` itself where that ends in .json, and beside it
    ``pictures/CASE.png``, into folders that are there; returns their paths.

    Images have file_name and, of pictures, width and height, of volumes size; annotations have bbox, ``[x, y, w, h]``
    with x along the columns, or ``[x, y, z, w, h, d]`` by array axis, and score. said: takes what was no more than a
    warning. Raises InputError at the end, when the
    other cases are written, with each case that could not be read; nothing is written where that is all of them. Raises
    Unwritable, when the boxes of all cases are written, if a picture could not be.
    """
    from foveate.predict.box_picture import draw_boxes

    path = boxes_path(out)
    names = list(predictor.plan.classes)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    problems: list[Problem] = []
    drawn: list[Path] = []
    unwritten: Unwritable | None = None
    for number, case in enumerate(cases, 1):
        try:
            volume = predictor.read(case.images, case.missing, said)
            found = predictor.predict(volume, mirror=mirror)
        except InputError as error:
            problems += [replace(problem, case=case.id) for problem in error.problems]
        else:
            first = case.images[0]
            # The case's own name: evaluation knows nothing of channels, _0000 is none of it.
            suffix = "" if first.is_dir() else first.name[-len(image_suffix(first)) :]
            images.append({"id": number, "file_name": case.id + suffix, **_size(volume)})
            annotations += _annotations(found, number, len(annotations) + 1)
            picture = picture_path(out, case)
            try:
                write_atomic(picture, draw_boxes(volume, found, names))
                drawn.append(picture)
            except Unwritable as error:  # the boxes are what was asked for: hours of them may wait to be written
                unwritten = unwritten or error
        if progress is not None:
            progress(number, len(cases))
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    data = {"images": images, "categories": categories, "annotations": annotations}
    if images:
        write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    if problems:
        raise InputError(problems) from unwritten
    if unwritten is not None:
        raise unwritten
    return [path, *drawn]


def boxes_path(out: Path) -> Path:
    """Where the boxes of all images go."""
    return out if out.suffix.lower() == ".json" else out / PREDICTIONS


def picture_path(out: Path, case: Case) -> Path:
    """Where the picture of a case goes, beside the boxes."""
    return boxes_path(out).parent / PICTURES / f"{case.id}.png"


def _size(volume: Volume) -> dict[str, Any]:
    if volume.dims == 2:
        return {"width": volume.shape[1], "height": volume.shape[0]}
    return {"size": list(volume.shape)}


def _annotations(found: Boxes, image: int, first: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for box, kind, score in zip(found.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), strict=True):
        low, high = box[: len(box) // 2], box[len(box) // 2 :]
        sides = [b - a for a, b in zip(low, high, strict=True)]
        if len(low) == 2:
            low, sides = low[::-1], sides[::-1]
        row = {"id": first + len(rows), "image_id": image, "category_id": kind + 1}
        rows.append(row | {"bbox": [round(v, 2) for v in (*low, *sides)], "score": round(score, 5)})
    return rows
