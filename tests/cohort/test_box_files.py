"""Boxes from files: conventions of VOC and COCO, structures of masks, and all that is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveate.cohort.boxes import Annotation, alike_names, judge_boxes, mask_boxes, read_coco, read_voc
from foveate.cohort.cohort import Box
from foveate.errors import InputError

OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox>{}</bndbox></object>"


def voc(path: Path, *objects: tuple[str, Any, Any, Any, Any], difficult: int = 0, head: str = "") -> Path:
    """A VOC file of a picture of 40 rows and 60 columns; objects: name, xmin, ymin, xmax, ymax."""
    items = [
        OBJECT.format(
            name,
            difficult,
            "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)),
        )
        for name, *box in objects
    ]
    size = "<size><width>60</width><height>40</height><depth>3</depth></size>"
    path.write_text(f"{head}<annotation>{size}{''.join(items)}</annotation>")
    return path


def test_voc_counts_pixels_from_one_and_both_corners_belong_to_the_box(tmp_path: Path) -> None:
    annotation = read_voc(voc(tmp_path / "a.xml", ("cell", 1, 11, 60, 20), difficult=1))
    assert annotation == Annotation((Box((10, 0, 20, 60), "cell", True),), (40, 60))
    assert read_voc(voc(tmp_path / "b.xml")).boxes == ()  # a labelled negative


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ('<!DOCTYPE a [<!ENTITY x "aaaa"><!ENTITY y "&x;&x;">]>', "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">', "document type"),
        ("<annotation></other>", "mismatched tag"),
        ('<?xml version="1.0" encoding="gb2312"?>', "multi-byte encodings"),
        ('<?xml version="1.0" encoding="foobar"?>', "unknown encoding"),
    ],
)
def test_entities_are_never_expanded_and_broken_xml_is_said(tmp_path: Path, head: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_voc(voc(tmp_path / "a.xml", head=head))


def test_voc_names_every_object_that_lacks_something(tmp_path: Path) -> None:
    path = voc(tmp_path / "a.xml", ("", 1, 2, 3, 4), ("cell", 1, "nan", 3, 4), ("cell", 1, 2, 3, 4))
    annotation = read_voc(path)
    assert [problem.field for problem in annotation.problems] == ["object 1: name", "object 2: bndbox"]
    assert annotation.boxes == (Box((1, 0, 4, 3), "cell"),)


def coco(path: Path, **changes: Any) -> Path:
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 7, "name": "cell"}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 7, "bbox": [0.5, 10, 30, 5], "iscrowd": 1}],
    }
    path.write_text(json.dumps(data | changes))
    return path


def test_coco_gives_corner_and_sides_along_the_columns_first(tmp_path: Path) -> None:
    found = read_coco(coco(tmp_path / "a.json"))
    assert found == {
        "a.png": Annotation((Box((10, 0.5, 15, 30.5), "cell", True),), (40, 60)),
        "b.png": Annotation(()),
    }
    volume = {"id": 5, "image_id": 2, "category_id": 7, "bbox": [1, 2, 3, 10, 20, 30]}
    assert read_coco(coco(tmp_path / "b.json", annotations=[volume]))["b.png"].boxes[0].edges == (1, 2, 3, 11, 22, 33)


def test_coco_says_what_is_wrong_with_each_entry(tmp_path: Path) -> None:
    one: dict[str, Any] = {"id": 5, "image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1]}
    wrong = [one | {"category_id": 8}, one | {"bbox": [1, 2, 3]}, one | {"bbox": [1, 2, 3, float("nan")]}, one]
    found = read_coco(coco(tmp_path / "a.json", annotations=wrong))["a.png"]
    assert ["category_id 8" in found.problems[0].found, len(found.problems), len(found.boxes)] == [True, 3, 1]
    with pytest.raises(InputError, match="image_id 3"):
        read_coco(coco(tmp_path / "b.json", annotations=[one | {"image_id": 3}]))
    with pytest.raises(InputError, match="categories"):
        read_coco(coco(tmp_path / "c.json", categories=None))


def test_coco_of_other_types_is_refused_all_in_one_pass(tmp_path: Path) -> None:
    items = [{"id": 1, "image_id": [1], "category_id": 1, "bbox": [1, 2, 3, 4]}]
    items += [{"id": 2, "image_id": 1, "category_id": {}, "bbox": [1, 2, 3, 4]}]
    items += [{"id": 3, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 10**400]}]
    with pytest.raises(InputError) as caught:
        read_coco(coco(tmp_path / "a.json", annotations=items))
    fields = [problem.field for problem in caught.value.problems]
    assert fields[0] == "annotation 1"
    assert {"annotation 2", "annotation 3"} <= set(fields)


@pytest.mark.parametrize("dims", [2, 3])
def test_masks_give_a_box_for_each_connected_structure(dims: int) -> None:
    labels = np.zeros((20,) * dims, np.uint8)
    labels[(slice(2, 5), *[slice(3, 9)] * (dims - 1))] = 1
    labels[(slice(5, 7), *[slice(9, 11)] * (dims - 1))] = 1  # touches the first at a corner: one structure
    labels[(slice(12, 13), *[slice(0, 20)] * (dims - 1))] = 2
    labels[(slice(16, 18), *[slice(4, 5)] * (dims - 1))] = 1
    labels[(slice(18, 20), *[slice(4, 5)] * (dims - 1))] = 255
    corner = (dims - 1,)
    assert set(mask_boxes(labels, {"a": 1, "b": 2})) == {
        Box((2.0, *(3.0,) * corner[0], 7.0, *(11.0,) * corner[0]), "a"),
        Box((16.0, *(4.0,) * corner[0], 18.0, *(5.0,) * corner[0]), "a"),
        Box((12.0, *(0.0,) * corner[0], 13.0, *(20.0,) * corner[0]), "b"),
    }


@pytest.mark.parametrize(
    ("edges", "said", "severity"),
    [
        ((5, 5, 41, 10), "beyond the border", "warn"),
        ((-1, 0, 5, 5), "beyond the border", "warn"),
        ((50, 5, 55, 10), "outside the image", "refuse"),
        ((-9, 5, -2, 10), "outside the image", "refuse"),
        ((5, 5, 5, 10), "of zero size", "warn"),
        ((9, 5, 5, 10), "high corner first", "refuse"),
        ((1, 1, 1, 2, 2, 2), "of 3 axes", "refuse"),
    ],
)
def test_boxes_are_judged_by_their_image(edges: tuple[float, ...], said: str, severity: str) -> None:
    good = Box((0, 0, 40, 60), "cell")
    kept, problems = judge_boxes(Annotation((good, Box(edges, "cell"))), (40, 60), "a.xml", ["cell"])
    assert [(said in problem.found, problem.severity, problem.field) for problem in problems] == [
        (True, severity, "box 2 (cell)")
    ]
    clipped = [(max(edges[0], 0), *edges[1:2], min(edges[2], 40), edges[3])] if "border" in said else []
    assert [box.edges for box in kept] == [good.edges, *clipped]


def test_unknown_classes_other_sizes_and_names_alike_are_refused() -> None:
    box = Box((0, 0, 4, 4), "sell")
    _, problems = judge_boxes(Annotation((box,)), (40, 60), "a.xml", ["cell", "nucleus"])
    assert "'cell'" in problems[0].fix
    kept, problems = judge_boxes(Annotation((box,), (60, 40)), (40, 60), "a.xml")
    assert (kept, problems[0].field) == ((), "size of the image")
    (problem,) = alike_names(["WBC", "wbc ", "RBC", "WBC"], "data")
    assert "'WBC' (2 boxes) and 'wbc ' (1 boxes)" in problem.found
    assert alike_names(["WBC", "RBC"], "data") == []
