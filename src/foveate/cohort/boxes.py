"""Boxes as they lie on disk: Pascal VOC's XML, COCO's JSON, and the structures of label masks in any dimension.

Sources: Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010; Lin et al., "Microsoft COCO", ECCV
2014. Boxes are as in ``foveate.boxes``: edges, in voxels of the file, by array axis (rows before columns).
VOC counts pixels from 1, and both corners belong to the box; COCO gives the low edge and the sides, ``[x, y, w, h]`` of
pictures, x along the columns, and ``[x, y, z, w, h, d]`` of volumes, by array axis.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from scipy import ndimage

from foveate.cohort.cohort import IGNORE, Box
from foveate.cohort.listing import read_json
from foveate.errors import InputError, Problem, refuse
from foveate.text import closest, one_form

PREDICTIONS = "predictions.json"  # what `foveate predict` writes boxes to
FAR = 1e9  # voxels: no edge lies beyond
LARGEST = 64 << 20  # bytes of an XML file that are read
REDRAW = "Correct the box, or remove it."


@dataclass(frozen=True)
class Annotation:
    """The boxes of one image, as its file ``source`` has them. shape: of the image, by array axis, where the file says
    it. problems: what was wrong in the file; boxes that are among them are left out."""

    boxes: tuple[Box, ...]
    shape: tuple[int, ...] | None = None
    problems: tuple[Problem, ...] = ()
    source: Path | None = field(default=None, compare=False, repr=False)


def read_voc(path: Path) -> Annotation:
    """The boxes of one VOC file. Raises InputError when it is no annotation in XML; no entity is ever expanded."""
    root = _parse(path)
    if root.tag != "annotation":
        raise refuse(path, "XML", f"<{root.tag}>", "<annotation> as Pascal VOC writes it", "Convert it.")
    boxes, problems = [], []
    for number, item in enumerate(root.findall("object"), 1):
        name = one_form(item.findtext("name") or "").strip()
        texts = [(item.findtext(f"bndbox/{key}") or "").strip() for key in ("ymin", "xmin", "ymax", "xmax")]
        values = [_number(text) for text in texts]
        if not name:
            fix = "Name its class, or remove it."
            problems.append(Problem(str(path), f"object {number}: name", "nothing", "a class", fix))
        if None in values:
            shown = ", ".join(text or "nothing" for text in texts)
            expected = "four numbers ymin, xmin, ymax, xmax"
            problems.append(Problem(str(path), f"object {number}: bndbox", shown, expected, REDRAW))
        elif name:
            top, left, bottom, right = (float(value) for value in values if value is not None)
            hard = (item.findtext("difficult") or "0").strip() == "1"
            # A stray click is one point: corners that coincide are no box, though both would belong to it.
            edges = (top - (bottom > top), left - (right > left), bottom, right)
            boxes.append(Box(edges, name, hard))
    size = [_number(root.findtext(f"size/{key}") or "") for key in ("height", "width")]
    shape = tuple(int(n) for n in size if n) if all(size) else None
    return Annotation(tuple(boxes), shape, tuple(problems), path)


def read_coco(path: Path, apart: list[Problem] | None = None) -> dict[str, Annotation]:
    """Boxes by file name of every image that a COCO file lists; one without any is a labelled negative.

    What is wrong with one entry is a problem of its image. apart: takes what is wrong with entries that belong to no
    image; without it they are raised, as InputError, as is a file that is no such JSON.
    """
    data = read_json(path)
    lists = {key: data.get(key) for key in ("images", "annotations", "categories")}
    for key, value in lists.items():
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise refuse(path, key, "no list of objects", "a list, as COCO has it", "Export the annotations as COCO.")
    names = {_id(item.get("id")): one_form(str(item.get("name", ""))).strip() for item in lists["categories"] or ()}
    files: dict[Any, str] = {}
    seen: set[str] = set()
    shapes: dict[Any, tuple[int, ...] | None] = {}
    problems = []
    for item in lists["images"] or ():
        number, file = _id(item.get("id")), item.get("file_name")
        if not isinstance(file, str) or number is None or number in files or file in seen:
            fix = "Give every image an id and a file_name of its own."
            found = f"id {item.get('id')!r}, file_name {file!r}"
            problems.append(Problem(str(path), "images", found, "both, and once", fix))
        else:
            files[number], shapes[number] = file, _coco_shape(item)
            seen.add(file)
    boxes: dict[Any, list[Box]] = defaultdict(list)
    wrong: dict[Any, list[Problem]] = defaultdict(list)
    for item in lists["annotations"] or ():
        image, kind, box = _id(item.get("image_id")), _id(item.get("category_id")), item.get("bbox")
        where = f"annotation {item.get('id')}"
        if image not in files:
            fix = "Add the image to images, or remove the annotation."
            problems.append(Problem(str(path), where, f"image_id {image!r}", "an id of images", fix))
        elif not names.get(kind):
            known = ", ".join(f"{number} ({name})" for number, name in names.items())
            fix = "Add it to categories, or correct it."
            wrong[image].append(Problem(str(path), where, f"category_id {kind!r}", f"one of {known}", fix))
        elif (edges := _coco_edges(box)) is None:
            wrong[image].append(Problem(str(path), where, f"bbox {box!r}"[:80], "[x, y, w, h] (or of 6)", REDRAW))
        else:
            boxes[image].append(Box(edges, names[kind], bool(item.get("iscrowd")), item.get("score", 1.0)))
    if apart is not None:
        apart += problems
    elif problems:
        raise InputError([*problems, *(problem for found in wrong.values() for problem in found)])
    return {name: Annotation(tuple(boxes[key]), shapes[key], tuple(wrong[key]), path) for key, name in files.items()}


def mask_boxes(labels: np.ndarray, values: Mapping[str, int | tuple[int, ...]]) -> tuple[Box, ...]:
    """Boxes of the connected structures of a label map ``[*S]``, neighbours over corners too; 255 belongs to none."""
    boxes = []
    for name, value in values.items():
        mask = np.isin(labels, value) & (labels != IGNORE)
        parts, _ = ndimage.label(mask, ndimage.generate_binary_structure(labels.ndim, labels.ndim))
        for cut in ndimage.find_objects(parts):
            edges = (*(float(s.start) for s in cut), *(float(s.stop) for s in cut))
            boxes.append(Box(edges, name))
    return tuple(boxes)


def judge_boxes(
    annotation: Annotation, shape: Sequence[int], source: Path | str, classes: Iterable[str] = ()
) -> tuple[tuple[Box, ...], list[Problem]]:
    """The boxes that can be used in an image of ``shape``, and all that is wrong with them.

    A box that passes the border is clipped to it with a warning, and one of zero size is left out with one. Refused are
    boxes that lie outside, whose corners are the wrong way round, or of a class that is none of ``classes`` (if any).
    """
    problems, kept = list(annotation.problems), []
    size, known = np.array(shape, float), list(classes)
    inside = f"inside (0, ...) to {_text(size)}"
    if annotation.shape not in (None, tuple(shape)):
        found, expected = (" x ".join(map(str, s)) for s in (annotation.shape or (), shape))
        fix = "The boxes belong to an image of another size: correct the annotation."
        problems.append(Problem(str(source), "size of the image", found, f"{expected}, as the image has", fix))
        return (), problems
    for number, box in enumerate(annotation.boxes, 1):
        low, high = np.split(np.array(box.edges), 2)
        field, shown = f"box {number} ({box.name})", f"{_text(low)} to {_text(high)}"
        if len(low) != len(size):
            found, expected = f"{shown}, of {len(low)} axes", f"{len(size)} axes, as the image has"
            problems.append(Problem(str(source), field, found, expected, REDRAW))
        elif known and box.name not in known:
            expected = f"one of {', '.join(known)}"
            problems.append(Problem(str(source), field, "an unknown class", expected, closest(box.name, known)))
        elif (high < low).any():
            found = f"{shown}, the high corner first"
            problems.append(Problem(str(source), field, found, "the low corner first", REDRAW))
        elif (low >= size).any() or (high <= 0).any():
            problems.append(Problem(str(source), field, f"{shown}, outside the image", inside, REDRAW))
        elif (high == low).any():
            found, fix = f"{shown}, of zero size", "It is left out; redraw or remove it."
            problems.append(Problem(str(source), field, found, "a box of some size", fix, "warn"))
        else:
            clipped = (*low.clip(0).tolist(), *np.minimum(high, size).tolist())
            if clipped != box.edges:
                found, fix = f"{shown}, beyond the border", "It is clipped to the image."
                problems.append(Problem(str(source), field, found, inside, fix, "warn"))
            kept.append(replace(box, edges=clipped))
    return tuple(kept), problems


def alike_names(names: Iterable[str], source: Path | str) -> list[Problem]:
    """Refuses class names that differ only by case or spaces."""
    counts = Counter(names)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(counts):
        groups["".join(name.split()).casefold()].append(name)
    return [
        Problem(
            str(source),
            "class names",
            " and ".join(f"{name!r} ({counts[name]} boxes)" for name in group) + ", which differ only by case or space",
            "one name for each class",
            "Write it alike everywhere.",
        )
        for group in groups.values()
        if len(group) > 1
    ]


def _parse(path: Path) -> Element:
    """The root of an XML file. A document type, which alone can declare entities, is refused before it is read."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def doctype(*_: object) -> None:
        raise refuse(path, "XML", "a document type (<!DOCTYPE>)", "plain elements", "Remove the declaration.")

    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise refuse(path, "size", f"more than {LARGEST >> 20} MiB", "the boxes of one image", "Check the file.")
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter: encodings that expat does not read
        raise refuse(path, "XML", error, "a whole XML file, in UTF-8", "Export it again.") from None
    except OSError as error:
        raise refuse(path, "file", error.strerror, "a readable file", "Check its permissions.") from None


def _id(value: object) -> int | str | None:
    """What COCO calls something by; None for what can be no name."""
    return value if isinstance(value, int | str) else None


def _coco_shape(item: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Of a volume ``size``, by array axis; of a picture height and width."""
    size = item.get("size") or [item.get("height"), item.get("width")]
    whole = isinstance(size, list) and all(isinstance(n, int) and n > 0 for n in size)
    return tuple(size) if whole else None


def _coco_edges(box: object) -> tuple[float, ...] | None:
    """``[x, y, w, h]`` or ``[x, y, z, w, h, d]`` -> low and high edges by array axis; None for anything else."""
    if not isinstance(box, list) or len(box) not in (4, 6):
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < FAR for v in box):
        return None  # NaN is less than nothing; of an integer without end there is no float
    low, sides = box[: len(box) // 2], box[len(box) // 2 :]
    if len(low) == 2:
        low, sides = low[::-1], sides[::-1]
    return (*(float(v) for v in low), *(float(v + s) for v, s in zip(low, sides, strict=True)))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _text(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
