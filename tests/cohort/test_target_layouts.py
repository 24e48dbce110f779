"""Class folders and tables of labels: what they say, and every fault of them in one pass of the check."""

import csv
import itertools
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scans import scan, write_nifti

from foveate.cohort.check import check
from foveate.cohort.layouts import find_cohort, task_of
from foveate.cohort.split import split_cases
from foveate.cohort.targets import statistics
from foveate.errors import InputError
from foveate.metrics import evaluate


def picture(path: Path, seed: int, size=(12, 15), mode="L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if mode == "L" else (*size, len(mode))
    pixels = np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)
    Image.fromarray(pixels, mode).save(path)
    return path


def folders(root: Path, **counts: int) -> Path:
    seeds = itertools.count()
    for name, count in counts.items():
        for number in range(count):
            picture(root / name / f"p{number}.png", next(seeds))
    return root


def table(root: Path, rows: list[list[object]], cases: int = 4) -> Path:
    for number in range(cases):
        picture(root / "images" / f"c{number}.png", number)
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def targets(cohort):
    return {case.id: case.target for case in cohort.cases}


def problems(report, severity="refuse"):
    return [f"{p.field}: {p.found}; {p.fix}" for p in report.problems if p.severity == severity]


def test_class_folders(tmp_path):
    cohort = find_cohort(folders(tmp_path, glioma=2, none=1, unlabelled=1))
    assert targets(cohort) == {
        "glioma/p0": ("glioma",),
        "glioma/p1": ("glioma",),
        "none/p0": ("none",),
        "unlabelled/p0": None,
    }
    assert (cohort.task, cohort.classes, cohort.exclusive, cohort.dims) == (
        "classification", {"glioma": 0, "none": 1}, True, 2,
    )  # fmt: skip
    kept = cohort.keep_labels(["none/p0"])
    assert [case.id for case in kept.labelled] == ["none/p0"]
    assert targets(kept)["glioma/p0"] is None


def test_table_of_classes(tmp_path):
    root = table(tmp_path, [["case", "label", "patient"], ["c0", "a", "x"], ["c1.png", "b", "x"], ["c2", "", "y"]])
    cohort = find_cohort(root)
    assert targets(cohort) == {"c0": ("a",), "c1": ("b",), "c2": None, "c3": None}
    assert [case.patient for case in cohort.cases] == ["x", "x", "y", "case c3"]
    assert cohort.exclusive


@pytest.mark.parametrize(
    "rows",
    [
        [["case", "label"], ["c0", "a;b"], ["c1", "b"], ["c2", "a"]],
        [["case", "a", "b"], ["c0", 1, 1], ["c1", 0, 1], ["c2", 1, 0], ["c3", "", ""]],
    ],
)
def test_several_labels_of_a_case(tmp_path, rows):
    cohort = find_cohort(table(tmp_path, rows))
    assert not cohort.exclusive
    assert targets(cohort) == {"c0": ("a", "b"), "c1": ("b",), "c2": ("a",), "c3": None}


@pytest.mark.parametrize("layout", ["folders", "columns"])
def test_a_class_name_that_reads_as_two_is_refused(tmp_path, layout):
    if layout == "folders":
        folders(tmp_path, **{"a;b": 2, "c": 2})
    else:
        table(tmp_path, [["case", "a;b", "c"], ["c0", 1, 0], ["c1", 0, 1], ["c2", 1, 1], ["c3", 0, 0]])
    assert problems(check(tmp_path)) == ["class names: 'a;b'; Rename it."]


def test_labels_of_a_case_have_no_order(tmp_path):
    root = table(tmp_path, [["case", "label"], ["c0", "b; a"], ["c0", "a;b;"], ["c1", "b;a"], ["c2", "c"], ["c3", ""]])
    (root / "images" / "c1.png").write_bytes((root / "images" / "c0.png").read_bytes())
    report = check(root)
    assert targets(report.cohort) == {"c0": ("a", "b"), "c2": ("c",), "c3": None}
    assert "content: the same image as case c0; c1 is left out." in problems(report, "warn")
    assert not any("two that differ" in text or "another label" in text for text in problems(report))


def test_names_of_classes_are_compared_in_one_form_of_unicode(tmp_path):
    """macOS writes an umlaut as letter and mark, others as one sign: folders of the one, tables of the other."""
    apart, one = (unicodedata.normalize(form, "Ödem") for form in ("NFD", "NFC"))
    root = folders(tmp_path / "folders", **{apart: 2, "none": 2})
    cohort = find_cohort(root)
    assert list(cohort.classes) == ["none", one]
    assert cohort.keep_labels([f"{one}/p1"]).labelled[0].target == (one,)
    cohort = find_cohort(table(tmp_path / "table", [["case", "label"], ["c0", apart], ["c1", one], ["c2", "none"]]))
    assert (list(cohort.classes), len({case.target for case in cohort.labelled})) == (["none", one], 2)
    out = tmp_path / "predictions.csv"
    rows = [f"{apart}/p0,{apart},1,0", f"{one}/p1,{one},1,0", "none/p0,none,0,1", "none/p1,none,0,1"]
    out.write_text("\n".join([f"case,label,{apart},none", *rows]), encoding="utf-8")
    found = evaluate(out, root)
    assert (found["accuracy"].value, found.problems) == (1, ())


def test_a_case_may_have_none_of_the_classes(tmp_path):
    cohort = find_cohort(table(tmp_path, [["case", "a", "b"], ["c0", 0, 0], ["c1", 0, 1]]))
    assert targets(cohort)["c0"] == ()
    assert [case.id for case in cohort.labelled] == ["c0", "c1"]


def test_table_of_numbers_of_volumes(tmp_path):
    for number in range(3):
        write_nifti(tmp_path / "images" / f"v{number}.nii.gz", scan(number))
    (tmp_path / "labels.csv").write_text("case,value\nv0,1.5\nv1,-2e1\n")
    cohort = find_cohort(tmp_path)
    assert (cohort.task, cohort.dims, cohort.classes) == ("regression", 3, {})
    assert targets(cohort) == {"v0": 1.5, "v1": -20.0, "v2": None}
    found = statistics(cohort)
    assert found == {"target_mean": -9.25, "target_std": 10.75}


def test_a_table_beside_label_maps_counts_only_where_it_is_asked_for(tmp_path):
    root = table(tmp_path, [["case", "label"], ["c0", "a"], ["c1", "b"]])
    picture(root / "labels" / "c0.png", 0)
    assert task_of(root) == "segmentation"
    assert find_cohort(root).layout == "plain"
    assert task_of(root, "classification") == "classification"
    with pytest.raises(InputError, match="a dataset for regression"):
        task_of(root, "regression")


def test_the_task_must_be_that_of_the_layout(tmp_path):
    with pytest.raises(InputError, match="class folders layout"):
        find_cohort(folders(tmp_path, a=1, b=1), "segmentation")
    with pytest.raises(InputError, match="Did you mean 'classification'"):
        find_cohort(tmp_path, "clasification")


def test_every_fault_of_class_folders_in_one_pass(tmp_path):
    root = folders(tmp_path, glioma=3, none=1, unlabelled=1)
    picture(root / "Glioma" / "p9.png", 90)
    picture(root / "none" / "copy.png", 0)  # as glioma/p0
    picture(root / "none" / "dot.png", 91, size=(1, 1))
    (root / "none" / "torn.jpg").write_bytes(picture(root / "x" / "x.jpg", 92, (40, 40)).read_bytes()[:400])
    (root / "x" / "x.jpg").unlink()
    picture(root / "none" / "cmyk.jpg", 93, mode="CMYK")
    picture(root / "none" / "glass.png", 94, mode="RGBA")
    report = check(root)
    refused = "\n".join(problems(report))
    for words in (
        "class names: 'Glioma' and 'glioma'",
        "the same image as case glioma/p0, with another label",
        "size: 1 x 1 pixels",
        "pixels: damaged picture data",
        "colours: CMYK",
        "alpha: ",
    ):
        assert words in refused
    said = "\n".join(problems(report, "warn"))
    assert "class Glioma: one labelled case; It teaches, but nothing is left to test" in said
    assert "folder: no image" in said


def test_every_fault_of_a_table_in_one_pass(tmp_path):
    rows = [["case", "value"], ["c0", "nan"], ["c1", "1,5"], ["c2", "inf"], ["gone", "2"], ["c3", "1"], ["c3", "2"],
            ["c5", "-1e200"]]  # fmt: skip
    report = check(table(tmp_path, rows, cases=6))
    refused = "\n".join(problems(report))
    for words in ("value of c0: 'nan'", "value of c1: '1,5'", "value of c2: 'inf'", "value of c5: '-1e200'",
                  "'gone', which has no file", "lines of c3: two that differ",
                  "values: one number, 1, in 1 labelled cases"):  # fmt: skip
        assert words in refused
    assert "no line for 1 cases (c4)" in "\n".join(problems(report, "warn"))


def test_faults_of_columns_of_classes(tmp_path):
    rows = [["case", "a", "A "], ["c0", "yes", 0], ["c1", 1, ""], ["c2", 1, 1], ["c3", 1, 1]]
    refused = "\n".join(problems(check(table(tmp_path, rows))))
    for words in ("line of c0: 'yes' in column a", "line of c1: '' in column A", "'a' and 'A'"):
        assert words in refused


@pytest.mark.parametrize("head", ["case", "name,label", "case,label,value", "case,label,label"])
def test_columns_that_say_nothing(tmp_path, head):
    with pytest.raises(InputError, match="columns"):
        find_cohort(table(tmp_path, [head.split(",")]))


@pytest.mark.parametrize("task", [None, "regression"])
def test_numbers_in_a_column_of_another_name_are_told_the_name(tmp_path, task):
    root = table(tmp_path, [["case", "volume", "patient"], ["c0", 3.25, 7], ["c1", 1, 8], ["c2", 2.5, 9]])
    with pytest.raises(InputError, match=r"column volume: found numbers such as 3.25; expected a column called value"):
        find_cohort(root, task)


def test_a_draw_that_leaves_a_class_out_is_refused(tmp_path):
    root = folders(tmp_path / "data", a=3, b=3)
    (tmp_path / "draw.txt").write_text("a/p0\na/p1\n")
    report = check(root, labelled=tmp_path / "draw.txt")
    assert "class b: no labelled case, in 2" in "\n".join(problems(report))
    assert report.table()["classes"] == {"a": 2, "b": 0}


def test_one_class_is_refused(tmp_path):
    assert "classes: a" in "\n".join(problems(check(folders(tmp_path, a=3, unlabelled=2))))


def test_split_is_stratified_and_by_patient(tmp_path):
    root = folders(tmp_path, a=30, b=20, c=4)
    with (root / "patients.csv").open("w") as file:
        print("case,patient", *(f"a/p{i},{i // 3}" for i in range(30)), sep="\n", file=file)
    cohort = find_cohort(root)
    split = split_cases(cohort, 0, 7)
    patient = {case.id: case.patient for case in cohort.cases}
    held = {patient[name] for name in split.validation}
    assert len(held) == 7
    assert not held & {patient[name] for name in split.train}
    of_class = [{patient[name] for name in split.validation if name[0] == letter} for letter in "abc"]
    assert [len(found) for found in of_class] == [2, 4, 1]  # of 10, 20 and 4 patients
    assert split_cases(cohort, 0, 7) == split
    assert split_cases(cohort, 1, 7) != split


def test_weights_of_classes_undo_half_of_their_imbalance(tmp_path):
    cohort = find_cohort(folders(tmp_path, a=9, b=1))
    weights = statistics(cohort)["class_weights"]
    assert weights["b"] / weights["a"] == pytest.approx(3, rel=1e-3)
    assert (9 * weights["a"] + weights["b"]) / 10 == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("row", [["c1", "2", "5"], ["c1", "a", "b"]])
def test_cells_beyond_the_first_line_are_refused(tmp_path, row):
    """A decimal comma, or labels joined by one: the cell beyond would be dropped unseen."""
    root = table(tmp_path, [["case", "label"], ["c0", "a"], row])
    with pytest.raises(InputError, match=r"labels\.csv: line 3: found 3 cells; expected 2"):
        find_cohort(root)


@pytest.mark.parametrize("name", ["unlabelled", "unlabeled", "Unlabelled", "UNLABELED "])
def test_pictures_without_label_by_any_spelling(tmp_path, name):
    cohort = find_cohort(folders(tmp_path, a=2, b=2, **{name: 3}))
    assert list(cohort.classes) == ["a", "b"]
    assert len(cohort.unlabelled) == 3


@pytest.mark.parametrize("name", ["case", "label"])
def test_classes_called_as_columns_of_the_predictions_are_refused(tmp_path: Path, name: str) -> None:
    for kind in (name, "control"):
        (tmp_path / kind).mkdir()
        for number in range(3):
            pixels = np.random.default_rng([number, len(kind)]).integers(0, 255, (16, 16), np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{kind}{number}.png")
    report = check(tmp_path)
    assert not report.ok
    assert any(problem.field == "class names" and repr(name) in problem.found for problem in report.problems)
