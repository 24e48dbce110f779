"""boxes.csv and masks/: what is read, and what is said of what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
from scans import label, plain_dataset, write_nifti

from foveate.cohort.check import check
from foveate.cohort.cohort import Box
from foveate.cohort.layouts import find_cohort
from foveate.cohort.split import split_cases
from foveate.errors import InputError

HEADER = "case,class,low_0,low_1,low_2,high_0,high_1,high_2"
INSIDE = "c,class 1,2,2,2,5,4,4"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Cases a and b with, c without a label; images are of 8 x 9 x 7 voxels. Classes 1 and 2 are named by nobody."""
    return plain_dataset(tmp_path / "data")


def write(data: Path, *lines: str, header: str = HEADER) -> Path:
    (data / "boxes.csv").write_text("\n".join([header, *lines]) + "\n")
    return data


def test_boxes_belong_to_their_cases_and_may_be_several(data: Path) -> None:
    write(data, INSIDE, " c , 2, 5,2,2, 6,4,4.5", "a,class 1,0,0,0,8,9,7")
    report = check(data)
    assert report.ok
    boxes = {case.id: case.boxes for case in report.cohort.cases}
    first = Box((2, 2, 2, 5, 4, 4), "class 1")
    assert boxes == {
        "a": (Box((0, 0, 0, 8, 9, 7), "class 1"),),
        "b": (),
        "c": (first, Box((5, 2, 2, 6, 4, 4.5), "2")),
    }


@pytest.mark.parametrize(
    ("line", "field", "found"),
    [
        ("c,class 1,2,2,2,5,4,8", "box of c", "8.0"),
        ("c,class 1,-1,2,2,5,4,4", "box of c", "-1.0"),
        ("c,class 1,2,2,2,5,2,4", "line 2: size", "holds nothing"),
        ("c,class 1,2,2,2,5,nan,4", "line 2: size", "nan"),
        ("c,class 1,2,2,2,5,x,4", "line 2: corners", "x"),
        ("c,class 1,2,2,2,5", "line 2: corners", "None"),
        ("d,class 1,2,2,2,5,4,4", "line 2: case", "'d'"),
        ("c,class 3,2,2,2,5,4,4", "class of c", "'class 3'"),
    ],
)
def test_a_wrong_line_is_refused_with_its_place(data: Path, line: str, field: str, found: str) -> None:
    problems = [problem for problem in check(write(data, line, INSIDE)).problems if problem.severity == "refuse"]
    assert [problem.field for problem in problems] == [field]
    assert found in problems[0].found
    assert problems[0].file.endswith("boxes.csv")


def test_all_wrong_lines_are_listed_in_one_pass(data: Path) -> None:
    report = check(write(data, "d,class 1,2,2,2,5,4,4", "c,class 1,2,2,2,2,4,4", "c,class 9,0,0,0,9,9,9"))
    assert len([problem for problem in report.problems if problem.severity == "refuse"]) == 4


def test_missing_columns_are_named(data: Path) -> None:
    with pytest.raises(InputError, match="no high_2; expected case,class"):
        find_cohort(write(data, header=HEADER.removesuffix(",high_2")))


def test_masks_without_images_name_classes_and_are_judged(data: Path) -> None:
    for file in (data / "labels").iterdir():
        file.unlink()
    write(data, INSIDE)
    write_nifti(data / "masks" / "x.nii.gz", label())
    report = check(data)
    assert report.ok  # boxes are enough for one method, and that is said
    assert report.cohort.classes == {"class 1": 1, "class 2": 2}
    assert any("adversarial_constraint" in problem.fix for problem in report.problems)
    assert list(report.masks) == ["masks/x"]
    assert not check(data, needs_labels=True).ok
    write_nifti(data / "masks" / "y.nii.gz", np.zeros((4, 4, 4), np.uint8))
    write_nifti(data / "masks" / "z.nii.gz", np.full((4, 4, 4), 255, np.uint8))
    (data / "masks" / "w.nii.gz").write_bytes(b"no scan")
    found = {problem.field for problem in check(data).problems if problem.severity == "refuse"}
    assert found == {"mask", "label values", "content"}


def test_a_mask_of_a_value_that_no_class_has_is_refused(data: Path) -> None:
    write(data, INSIDE)
    (data / "dataset.json").write_text('{"labels": {"background": 0, "class 1": 1, "class 2": 2}}')
    write_nifti(data / "masks" / "x.nii.gz", 3 * label())
    (problem,) = [problem for problem in check(data).problems if problem.severity == "refuse"]
    assert problem.found == "values 3, 6"


def test_without_pairs_no_labelled_case_teaches_by_its_image(data: Path) -> None:
    split = split_cases(check(write(data, INSIDE)).cohort, 0)
    assert split.train == ("a", "b")
    assert split.with_boxes({"c"}, paired=False).train == ()
    assert split.with_boxes({"c"}, paired=True).train == ("a", "b")
    assert split.with_boxes({"c"}, paired=False).unlabelled == ("c",)
    assert split.with_boxes(set(), paired=False).unlabelled == ()
