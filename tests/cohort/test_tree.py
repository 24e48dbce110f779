"""The label tree of dataset.json: what it says, and what is wrong with it, told before anything trains."""

import numpy as np
import pytest
from rich.console import Console
from scans import label, msd_dataset, nnunet_dataset, plain_dataset, read_json, write_json, write_nifti

import foveate
from foveate.cohort import listing
from foveate.cohort.check import check
from foveate.cohort.layouts import find_cohort
from foveate.cohort.show import render
from foveate.cohort.tree import coarse_values, families, values_below
from foveate.errors import InputError

CLASSES = {"enhancing": 1, "necrotic": 2, "oedema": 3, "tumour": 4, "vessel": 5}
TREE = {"core": ["enhancing", "necrotic"], "tumour": ["core", "oedema"]}
LABELS = {"background": 0, "organ": 1, "lesion": 2, "body": 3}
ORGANS = {"body": ["organ", "lesion"]}


def with_tree(root, tree, labels=LABELS):
    write_json(root, (read_json(root) if (root / "dataset.json").exists() else {}) | {"labels": labels, "tree": tree})
    return root


@pytest.mark.parametrize("make", [plain_dataset, nnunet_dataset, msd_dataset])
def test_every_layout_has_a_tree(tmp_path, make):
    labels = {str(v): name for name, v in LABELS.items()} if make is msd_dataset else LABELS
    report = check(with_tree(make(tmp_path), ORGANS, labels))  # no label need show the body undivided
    report.raise_if_refused()
    assert report.cohort.tree == {"body": ("organ", "lesion")}


def test_order_and_values_from_the_top_down():
    assert families(CLASSES, TREE) == [
        (None, ["tumour", "vessel"]),
        ("tumour", ["core", "oedema"]),
        ("core", ["enhancing", "necrotic"]),
    ]
    assert [values_below(name, CLASSES, TREE) for name in ("tumour", "core", "vessel")] == [{1, 2, 3, 4}, {1, 2}, {5}]
    assert coarse_values(CLASSES, TREE) == {4: {"enhancing", "necrotic", "oedema"}}


def test_check_lists_the_tree(tmp_path):
    console = Console(record=True, width=100)
    render(check(with_tree(plain_dataset(tmp_path), ORGANS)), console)
    assert "label tree: body → organ, lesion" in console.export_text()


BAD = {
    "cycle": ({"body": ["organ", "b"], "b": ["lesion", "body"]}, "tree.", "a cycle: "),
    "itself": ({"body": ["body", "organ"]}, "tree.body", "a cycle: body -> body"),
    "unknown label": ({"body": ["organ", "liver"]}, "tree.body", "'liver', an unknown label"),
    "doubled label": ({"body": ["organ", "lesion"], "b": ["organ", "body"]}, "tree.b", "'organ', which stands below"),
    "doubled child": ({"body": ["organ", "organ"]}, "tree.body", "'organ', which stands twice"),
    "background": ({"body": ["organ", "background"]}, "tree.body", "'background', an unknown label"),
    "one child": ({"body": ["organ"]}, "tree.body", "['organ']"),
    "no names": ({"body": 3}, "tree.body", "3"),
}  # fmt: skip


@pytest.mark.parametrize(("tree", "field", "found"), BAD.values(), ids=BAD)
def test_what_is_no_tree_is_refused_once_and_before_training(tmp_path, tree, field, found):
    root = with_tree(plain_dataset(tmp_path / "scans"), tree)
    with pytest.raises(InputError) as caught:
        foveate.train(root, tmp_path / "run", steps=1, quiet=True)
    (problem,) = caught.value.problems
    assert problem.file == str(root / "dataset.json")
    assert problem.field.startswith(field)
    assert found in problem.found
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_tree_that_is_no_object_is_refused(tmp_path):
    root = with_tree(plain_dataset(tmp_path), ["organ", "lesion"])
    assert [p.found for p in find_cohort(root).problems] == ["['organ', 'lesion']"]


def test_a_tree_beside_regions_is_refused(tmp_path):
    root = with_tree(plain_dataset(tmp_path), {"body": ["organ", "lesion"]}, {"organ": [1, 2], "lesion": 2})
    assert [p.found for p in find_cohort(root).problems] == ["a tree beside regions"]


def test_a_case_with_a_label_outside_the_tree_is_refused(tmp_path):
    root = with_tree(plain_dataset(tmp_path / "scans"), ORGANS)
    array = np.where(label() == 2, 9, label()).astype(np.uint8)
    write_nifti(root / "labels" / "a.nii.gz", array)
    with pytest.raises(InputError) as caught:
        foveate.train(root, tmp_path / "run", steps=1, quiet=True)
    (problem,) = caught.value.problems
    assert (problem.case, problem.found) == ("a", "value 9 in 4 voxels")
    assert "3 (body)" in problem.expected


def test_a_label_that_stands_twice_is_refused(tmp_path):
    """JSON would keep the last alone."""
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "a": 3, "b": 2, "a": 1}}')
    with pytest.raises(InputError, match=r"dataset\.json: JSON: found 'a' 2 times in one object"):
        listing.read_json(tmp_path / "dataset.json")
