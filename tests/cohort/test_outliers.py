"""A scan unlike its cohort is said with its distance and does not teach unlabelled; every ordinary scan does."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scans import write_nifti

import foveate
from foveate.cohort.check import CheckReport, check
from foveate.cohort.facts import thumbnail
from foveate.cohort.outliers import outliers
from foveate.errors import InputError, Problem
from foveate.methods import default_method
from foveate.report.run import read_log
from toys import tiny_plan

SHAPE = (20, 24, 18)
SPACING = np.diag([1.0, 1.0, 2.0, 1.0])


def head(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A bright ellipsoid with a dark core, in units of its own as MR has: up to ten thousand times another's."""
    random = np.random.default_rng(seed)
    offsets = [(i - random.uniform(0.45, 0.55) * n) / n for i, n in zip(np.indices(shape), shape, strict=True)]
    distance = np.sqrt(sum(o**2 for o in offsets))
    scan = 3.0 * (distance < random.uniform(0.32, 0.38)) - 2.0 * (distance < 0.12) + random.normal(2, 0.3, shape)
    return (scan * 10 ** random.uniform(0, 4) + random.uniform(0, 10)).astype(np.float32)


def cohort(root: Path, cases: int = 14, labelled: int = 3) -> Path:
    for case in range(cases):
        write_nifti(root / "images" / f"c{case:02}.nii.gz", head(case), SPACING)
        if case < labelled:
            label = np.zeros(SHAPE, np.uint8)
            label[8:12, 8:12, 6:10] = 1
            write_nifti(root / "labels" / f"c{case:02}.nii.gz", label, SPACING)
    return root


def add(root: Path, name: str, scan: np.ndarray, affine: np.ndarray = SPACING) -> Path:
    return write_nifti(root / "images" / f"{name}.nii.gz", scan, affine)


def planned(run: Path) -> Path:
    """A run folder with a plan that trains in no time."""
    run.mkdir()
    tiny_plan(3, patch=(8, 8, 8), classes={"class 1": 1}).write(run / "plan.json")
    return run


def appearance(report: CheckReport) -> list[Problem]:
    return [problem for problem in report.problems if problem.field == "appearance"]


STRANGERS = {
    "inverted": (-head(90), SPACING),
    "another organ": (np.cumsum(np.ones(SHAPE, np.float32), 0) + head(91) / head(91).max(), SPACING),
    "no signal": (np.random.default_rng(5).normal(0, 1, SHAPE).astype(np.float32), SPACING),
    "four times as large": (head(92, (80, 24, 18)), SPACING),
    "slices of 10 mm": (head(93), np.diag([1.0, 1.0, 10.0, 1.0])),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_is_said_in_one_line_and_set_aside(tmp_path: Path, stranger: str) -> None:
    root = cohort(tmp_path / "scans")
    path = add(root, "stranger", *STRANGERS[stranger])
    report = check(root)
    (problem,) = appearance(report)
    assert (problem.case, problem.severity, problem.file) == ("stranger", "aside", str(path))
    assert "robust deviations from the cohort" in problem.found
    assert "\n" not in str(problem)
    assert "unlabelled_outliers=keep" in problem.fix
    assert "stranger" not in {case.id for case in report.cohort.cases} | report.facts.keys()
    assert report.ok
    kept = check(root, keep_outliers=True)
    (problem,) = appearance(kept)
    assert (problem.case, problem.severity) == ("stranger", "warn")
    assert "stranger" in kept.facts


def test_no_scan_of_the_cohort_is_set_aside_whatever_its_units(tmp_path: Path) -> None:
    root = cohort(tmp_path / "scans", cases=40)
    largest = [float(head(case).max()) for case in range(40)]
    assert max(largest) > 1000 * min(largest)
    assert appearance(check(root)) == []


HEADS = 1000 * np.arange(14) // 14  # seeds


def tissue(seed: int) -> np.ndarray:
    """The ellipsoid in HU: air around soft tissue, with noise; scans differ in size and place."""
    scan = head(seed)
    return np.round(np.interp(scan, np.percentile(scan, (1, 99)), (-1000, 300))).astype(np.float32)


def ct(root: Path, tissues: Callable[[int], np.ndarray] = tissue) -> Path:
    for number, seed in enumerate(HEADS):
        add(root, f"c{number:02}", tissues(int(seed)))
    return plain_label(root)


def plain_label(root: Path) -> Path:
    label = np.zeros(SHAPE, np.uint8)
    label[8:12, 8:12, 6:10] = 1
    write_nifti(root / "labels" / "c00.nii.gz", label, SPACING)
    return root


@pytest.mark.parametrize(
    "change",
    [lambda x: x + 1024, lambda x: x * 100, lambda x: x / 1000],
    ids=["shifted", "in hundredths", "in thousands"],
)
def test_ct_in_other_units_is_said_and_set_aside(tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    root = ct(tmp_path / "scans")
    assert appearance(check(root)) == []
    add(root, "stranger", change(tissue(3)))
    (problem,) = appearance(check(root))
    assert (problem.case, problem.severity) == ("stranger", "aside")
    assert "image values from" in problem.found


def test_nearly_identical_ct_and_padding_below_air_are_ordinary(tmp_path: Path) -> None:
    root = ct(tmp_path / "scans", lambda seed: tissue(0) + np.float32(seed / 1000))
    add(root, "brighter", tissue(0) + 60)
    report = check(root)
    assert appearance(report) == []
    fact = report.facts["brighter"]
    padded = replace(fact, percentiles=((-3024.0, -3024.0, *fact.percentiles[0][2:]),))
    assert outliers({**report.facts, "brighter": padded}, ("image",)) == {}


def test_pictures_of_8_bits_are_judged_by_their_colours(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    cells = np.add.outer(np.arange(32), np.arange(32))[..., None] + np.array([90, 60, 120])
    for case in range(12):
        picture = cells + random.integers(-10, 10) + random.integers(0, 20, (32, 32, 3))
        dark = picture // 40 if case == 11 else picture
        Image.fromarray(dark.astype(np.uint8)).save(tmp_path / "images" / f"c{case:02}.png")
    Image.fromarray(np.eye(32, dtype=np.uint8)).save(tmp_path / "labels" / "c00.png")
    assert [(problem.case, problem.severity) for problem in appearance(check(tmp_path))] == [("c11", "aside")]


@pytest.mark.parametrize(("labelled", "foreign"), [(4, 20), (8, 8)])
def test_the_labelled_scans_say_what_the_cohort_is_like(tmp_path: Path, labelled: int, foreign: int) -> None:
    root = cohort(tmp_path / "scans", cases=labelled, labelled=labelled)
    for number in range(foreign):
        add(root, f"x{number:02}", -head(100 + number))
    report = check(root)
    assert len(report.cohort.labelled) == labelled
    assert report.cohort.unlabelled == ()
    assert {problem.severity for problem in appearance(report)} == {"aside"}


def test_few_scans_are_no_cohort_to_be_unlike(tmp_path: Path) -> None:
    root = cohort(tmp_path / "scans", cases=8)
    add(root, "stranger", *STRANGERS["inverted"])
    assert appearance(check(root)) == []
    write_nifti(root / "images" / "c08.nii.gz", head(8), SPACING)
    assert [problem.case for problem in appearance(check(root))] == ["stranger"]


def test_a_labelled_stranger_is_kept_and_said(tmp_path: Path) -> None:
    root = cohort(tmp_path / "scans")
    shutil.copy(add(root, "c01", *STRANGERS["inverted"]), tmp_path / "copy.nii.gz")
    report = check(root)
    (problem,) = appearance(report)
    assert (problem.case, problem.severity) == ("c01", "warn")
    assert "c01" in {case.id for case in report.cohort.labelled}


def test_a_thumbnail_follows_from_contrast_and_place_and_not_from_units_or_the_order_of_axes() -> None:
    scan = head(3)
    expected = np.array(thumbnail(scan, SPACING))
    assert expected.shape == (216,)
    np.testing.assert_allclose(thumbnail(scan * 700 + 9, SPACING), expected, atol=2e-3)
    np.testing.assert_allclose(thumbnail(-scan, SPACING), -expected, atol=2e-3)
    stored = nib.Nifti1Image(scan[:, :, ::-1].transpose(2, 0, 1), np.eye(4))
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = -2, 1, 1, 1  # axes run to inferior, right, anterior
    np.testing.assert_allclose(thumbnail(np.asarray(stored.dataobj), affine), expected, atol=1e-4)
    blocks = scan.clip(*np.percentile(scan, (0.5, 99.5)))
    blocks = (blocks - blocks.mean()) / blocks.std()
    assert expected[0] == pytest.approx(blocks[:3, :4, :3].mean(), abs=1e-3)


def test_thin_images_have_thumbnails_of_the_same_size() -> None:
    assert len(thumbnail(np.arange(30.0).reshape(10, 3), np.eye(4))) == 36
    assert set(thumbnail(np.ones((9, 9, 2)), np.eye(4))) == {0.0}


def test_training_leaves_the_stranger_out_unless_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = cohort(tmp_path / "scans")
    add(root, "stranger", *STRANGERS["inverted"])
    options = {"steps": 1, "device": "cpu", "method": "mean_teacher"}
    run = foveate.train(root, planned(tmp_path / "run"), **options)
    assert "stranger.nii.gz: appearance: found" in "".join(capsys.readouterr().out.split("\n"))
    assert not list((run / "prepared").glob("stranger*"))
    kept = foveate.train(root, planned(tmp_path / "kept"), set=["unlabelled_outliers=keep"], quiet=True, **options)
    assert list((kept / "prepared").glob("stranger*"))
    assert read_log(kept)


def test_what_teaches_nobody_is_prepared_for_the_page_alone(tmp_path: Path) -> None:
    root = cohort(tmp_path / "scans")
    cases = {}
    for method in ("supervised", "mean_teacher"):
        run = foveate.train(root, planned(tmp_path / method), steps=1, device="cpu", method=method, quiet=True)
        cases[method] = {path.name.split("-")[0] for path in (run / "prepared").glob("c*")}
        page = (run / "report.html").read_text()
        assert all(f"c0{shown}" in page for shown in range(6))
    assert cases["supervised"] == {f"c{case:02}" for case in range(6)}
    assert cases["mean_teacher"] == {f"c{case:02}" for case in range(14)}


@pytest.mark.parametrize(
    ("dataset", "labels"), [("hippocampus", 4), ("hippocampus", 16), ("hippocampus", 32), ("left_atrium", 4)]
)
def test_real_scans_are_ordinary_however_few_have_labels(shared_data: Path, dataset: str, labels: int) -> None:
    root = shared_data / dataset
    assert appearance(check(root, labelled=root / f"labelled_{labels}.txt")) == []


def test_real_scans_are_ordinary_and_strangers_among_them_are_not(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "hippocampus"
    root = Path(shutil.copytree(source, tmp_path / "scans"))
    ids = (source / "labelled_8.txt").read_text()
    (tmp_path / "ids.txt").write_text(ids)
    assert appearance(check(root, labelled=tmp_path / "ids.txt")) == []
    first = nib.load(next(iter(sorted((root / "images").iterdir()))))
    add(root, "inverted", -first.get_fdata().astype(np.float32), first.affine)
    shutil.copy(sorted((shared_data / "left_atrium" / "images").iterdir())[0], root / "images" / "atrium.nii.gz")
    assert {p.case for p in appearance(check(root, labelled=tmp_path / "ids.txt"))} == {"inverted", "atrium"}


# --- what else few labels can lack


def test_a_method_without_what_it_learns_from_is_refused_with_the_way_out(tmp_path: Path) -> None:
    root = cohort(tmp_path / "scans", cases=4, labelled=4)
    with pytest.raises(InputError) as caught:
        foveate.train(root, tmp_path / "run", method="mean_teacher", steps=1, quiet=True)
    assert "method.name: found mean_teacher, and 4 scans that all have a label" in str(caught.value)
    assert "Use --method supervised, or add scans without labels." in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_default_needs_no_unlabelled_scans_and_the_mean_teacher_many() -> None:
    few = {"segmentation": 5, "classification": 13}  # unlabelled images to a labelled one, beyond which it trains
    for task in ("segmentation", "classification", "regression", "detection"):
        assert default_method(task, labelled=4, unlabelled=0) == "supervised"
        most = few.get(task, 10**9) * 8
        assert default_method(task, 8, most - 8) == "supervised"
        assert default_method(task, 8, most + 8) == ("mean_teacher" if task in few else "supervised")


def test_a_class_that_the_draw_lacks_is_named_with_the_draw(tmp_path: Path) -> None:
    root = cohort(tmp_path / "scans", cases=4, labelled=4)
    (root / "dataset.json").write_text('{"labels": {"background": 0, "core": 1, "rim": 2}}')
    label = np.zeros(SHAPE, np.uint8)
    label[8:12, 8:12, 6:10], label[12:14, 8:12, 6:10] = 1, 2
    write_nifti(root / "labels" / "c03.nii.gz", label, SPACING)
    assert check(root).ok
    draw = tmp_path / "draw.txt"
    draw.write_text("c00\nc01\n")
    (problem,) = [problem for problem in check(root, labelled=draw).problems if problem.severity == "refuse"]
    assert str(problem) == (
        f"{draw}: class rim: found no voxel of rim (value 2) in 2 labelled cases (c00, c01); expected every class in "
        "at least one label. Name a case that shows rim in this file, or remove the class from dataset.json."
    )
