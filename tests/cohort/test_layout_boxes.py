"""Datasets of boxes: what is recognised, what every file means, and all that is refused in one pass."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from foveate.cohort.check import CheckReport, check
from foveate.cohort.cohort import Box
from foveate.cohort.fingerprint import fingerprint
from foveate.cohort.layouts import find_cohort, task_of
from foveate.cohort.planning import BOX_SIDE, CPU, make_plan
from foveate.errors import InputError

OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def pictures(root: Path, count: int, shape: tuple[int, int] = (40, 60)) -> Path:
    random = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    for number in range(count):
        Image.fromarray(random.integers(0, 255, (*shape, 3), np.uint8)).save(root / "images" / f"p{number}.png")
    return root


def annotate(root: Path, case: str, *objects: tuple[str, int, int, int, int]) -> None:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"{case}.xml").write_text(
        f"<annotation>{''.join(OBJECT.format(*item) for item in objects)}</annotation>"
    )


def said(report: CheckReport) -> set[tuple[str, str, str]]:
    return {(Path(problem.file).name, problem.field, problem.severity) for problem in report.problems}


def test_voc_files_are_boxes_negatives_and_unlabelled_pictures(tmp_path: Path) -> None:
    root = pictures(tmp_path, 4)
    annotate(root, "p0", ("cell", 1, 1, 10, 12), ("nucleus", 21, 11, 30, 40))
    annotate(root, "p1")
    annotate(root, "p2", ("cell", 5, 5, 61, 20))
    report = check(root)
    assert report.ok
    assert task_of(root) == "detection"
    cohort = report.cohort
    assert (cohort.layout, cohort.task, dict(cohort.classes)) == ("boxes", "detection", {"cell": 0, "nucleus": 1})
    targets = {case.id: case.target for case in cohort.cases}
    assert targets["p0"] == (Box((0, 0, 12, 10), "cell"), Box((10, 20, 40, 30), "nucleus"))
    assert targets["p1"] == ()
    assert targets["p2"] == (Box((4, 4, 20, 60), "cell"),)
    assert targets["p3"] is None
    assert [case.id for case in cohort.unlabelled] == ["p3"]
    assert said(report) == {("p2.xml", "box 1 (cell)", "warn")}
    assert report.table()["boxes"]["cell"] == {"in a case": [0, 1, 1], "shortest side": [10, 13, 16]}


def test_only_the_labels_that_are_named_are_opened(tmp_path: Path) -> None:
    root = pictures(tmp_path / "data", 2)
    annotate(root, "p0", ("cell", 1, 1, 10, 12))
    (root / "annotations" / "p1.xml").write_text("no XML at all")
    (tmp_path / "ids.txt").write_text("p0\n")
    report = check(root, labelled=tmp_path / "ids.txt")
    assert report.ok
    assert [case.id for case in report.cohort.labelled] == ["p0"]
    assert not check(root).ok


def test_everything_that_is_wrong_is_listed_at_once(tmp_path: Path) -> None:
    root = pictures(tmp_path, 4)
    annotate(root, "p0", ("cell", 70, 1, 80, 12), ("cell", 9, 9, 9, 9), ("Cell ", 1, 1, 9, 9))
    annotate(root, "p1", ("cell", 12, 9, 3, 19))
    annotate(root, "p9", ("cell", 1, 1, 9, 9))
    (root / "annotations" / "p2.xml").write_text("<annotation><object>")
    found = said(check(root))
    assert {
        ("p0.xml", "box 1 (cell)", "refuse"),
        ("p0.xml", "box 2 (cell)", "warn"),
        ("p1.xml", "box 1 (cell)", "refuse"),
        ("p9.xml", "p9.xml", "refuse"),
        ("p2.xml", "XML", "refuse"),
        (root.name, "class names", "refuse"),
    } <= found


def test_declared_classes_are_the_only_ones(tmp_path: Path) -> None:
    root = pictures(tmp_path, 1)
    annotate(root, "p0", ("sell", 1, 1, 9, 9))
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "cell": 1, "nucleus": 2}}))
    problems = [problem for problem in check(root).problems if problem.severity == "refuse"]
    assert {problem.field for problem in problems} >= {"box 1 (sell)"}
    assert any("cell" in problem.fix for problem in problems)


def test_values_of_declared_classes_do_not_matter(tmp_path: Path) -> None:
    """0 is a class like others where nothing is a map; only what is called background is none."""
    root = pictures(tmp_path, 1)
    annotate(root, "p0", ("cell", 1, 1, 9, 9), ("nucleus", 1, 1, 9, 9))
    for labels in ({"cell": 0, "nucleus": 1}, {"background": 0, "cell": 1, "nucleus": 2}):
        (root / "dataset.json").write_text(json.dumps({"labels": labels}))
        report = check(root)
        assert report.ok
        assert dict(report.cohort.classes) == {"cell": 0, "nucleus": 1}


def test_a_class_of_difficult_boxes_alone_cannot_be_learned(tmp_path: Path) -> None:
    root = pictures(tmp_path, 1)
    annotate(root, "p0", ("cell", 1, 1, 9, 9), ("blur", 20, 20, 30, 30))
    file = root / "annotations" / "p0.xml"
    file.write_text(file.read_text().replace("<name>blur</name>", "<name>blur</name><difficult>1</difficult>"))
    refused = [problem for problem in check(root).problems if problem.severity == "refuse"]
    assert [(problem.field, problem.found) for problem in refused] == [
        ("class blur", "no box but difficult ones, in 1 labelled cases")
    ]


def test_coco_is_read_and_its_unknown_images_are_refused(tmp_path: Path) -> None:
    root = pictures(tmp_path, 3)
    data: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"images/p{n}.png", "width": 60, "height": 40} for n in (0, 1)],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [2, 3, 10, 20]}],
    }
    (root / "annotations.json").write_text(json.dumps(data))
    targets = {case.id: case.target for case in check(root).cohort.cases}
    assert targets == {"p0": (Box((3, 2, 23, 12), "cell"),), "p1": (), "p2": None}
    data["images"].append({"id": 7, "file_name": "p7.png"})
    (root / "annotations.json").write_text(json.dumps(data))
    assert ("annotations.json", "p7.png", "refuse") in said(check(root))
    one = data["annotations"][0]
    data["annotations"] += [one | {"id": 8, "image_id": 99}, one | {"id": 9, "category_id": 99}]
    (root / "annotations.json").write_text(json.dumps(data))
    every = {(file, field) for file, field, _ in said(check(root))}
    assert {("annotations.json", field) for field in ("p7.png", "annotation 8", "annotation 9")} <= every


def test_masks_give_boxes_where_detection_is_asked_for(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    random = np.random.default_rng(0)
    for number in range(2):
        labels = np.zeros((12, 14, 10), np.uint8)
        labels[2:6, 3:8, 1:5] = 1
        labels[8:11, 9:13, 6:9] = 2
        affine = np.diag([2.0, 1.0, 1.5, 1.0])
        image = random.normal(0, 1, labels.shape).astype(np.float32) + labels
        nib.save(nib.Nifti1Image(image, affine), tmp_path / "images" / f"s{number}.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), tmp_path / "labels" / f"s{number}.nii.gz")
    assert find_cohort(tmp_path).task == "segmentation"
    report = check(tmp_path, task="detection")
    assert report.ok
    assert dict(report.cohort.classes) == {"class 1": 0, "class 2": 1}
    assert report.cohort.cases[0].target == (
        Box((2, 3, 1, 6, 8, 5), "class 1"),
        Box((8, 9, 6, 11, 13, 9), "class 2"),
    )


def test_class_folders_have_no_boxes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (20, 20)).save(tmp_path / name / "x.png")
    with pytest.raises(InputError, match="detection, and the class folders layout"):
        find_cohort(tmp_path, "detection")


def test_pictures_are_planned_as_coarse_as_their_small_boxes_allow(tmp_path: Path) -> None:
    root = pictures(tmp_path, 2, (480, 640))
    annotate(root, "p0", *(("cell", 10 * n + 1, 1, 10 * n + 36, 90) for n in range(20)))
    annotate(root, "p1", ("nucleus", 1, 1, 300, 300))
    report = check(root)
    facts = fingerprint(report)
    assert facts.smallest_box == 36
    plan = make_plan(report.cohort, facts, CPU)
    assert plan.spacing == (36 / BOX_SIDE,) * 2
    assert plan.task == "detection"
    assert all(n * s >= size for n, s, size in zip(plan.patch, plan.spacing, (480, 640), strict=True))
