"""What a check says about a cohort as a whole."""

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scans import label, msd_dataset, nnunet_dataset, plain_dataset, read_json, scan, write_json, write_nifti

from foveate.cohort.check import CheckReport, check, check_cohort
from foveate.cohort.cohort import Cohort
from foveate.cohort.layouts import find_cohort
from foveate.errors import InputError, Problem


def found(report, words: str) -> list:
    return [problem for problem in report.problems if words in str(problem)]


def test_sound_cohorts_have_no_problem(tmp_path: Path) -> None:
    for number, build in enumerate((plain_dataset, nnunet_dataset, msd_dataset)):
        report = check(build(tmp_path / str(number)))
        assert report.problems == []
        assert report.ok
        report.raise_if_refused()


def test_facts_are_the_images_own(tmp_path: Path) -> None:
    root = nnunet_dataset(tmp_path)
    facts = check(root).facts["case1"]
    first, second = scan(10).astype(float), scan(11).astype(float)
    assert facts.shape == (8, 9, 7)
    assert facts.spacing == pytest.approx((1.5, 2, 3))
    assert facts.orientation == "RAS"
    assert facts.voxels == {0: 488, 1: 12, 2: 4}
    assert facts.mean == pytest.approx((first.mean(), second.mean()))
    assert facts.std == pytest.approx((first.std(), second.std()))
    assert facts.percentiles[1] == pytest.approx(np.percentile(second, (0.5, 5, 50, 95, 99.5)), rel=1e-6)
    inside = second[label() > 0]
    assert facts.foreground is not None
    assert facts.foreground[1] == pytest.approx((inside.mean(), inside.std(), *np.percentile(inside, (0.5, 99.5))))
    assert facts.stored == "int16"


def test_withheld_labels_are_never_opened(tmp_path: Path) -> None:
    root = plain_dataset(tmp_path / "data", cases=6)
    (root / "labels" / "a.nii.gz").write_bytes(b"not a label at all")
    (tmp_path / "ids.txt").write_text("b\nc\n")
    report = check(root, labelled=tmp_path / "ids.txt")
    assert report.problems == []
    assert [case.id for case in report.cohort.labelled] == ["b", "c"]
    assert report.facts["a"].voxels is None


def test_classes_are_read_off_the_labels(tmp_path: Path) -> None:
    report = check(plain_dataset(tmp_path))
    assert report.cohort.classes == {"class 1": 1, "class 2": 2}
    assert report.cohort.channels == ("image",)


def test_four_dimensions_hold_declared_channels(tmp_path: Path) -> None:
    root = msd_dataset(tmp_path)
    for name in "abcd":
        array = np.stack([scan(ord(name)), scan(ord(name) + 50)], -1)
        write_nifti(root / "imagesTr" / f"{name}.nii.gz", array)
    write_json(root, {**read_json(root), "modality": {"0": "FLAIR", "1": "T1"}})
    report = check(root)
    assert report.problems == []
    assert report.facts["a"].mean == pytest.approx((scan(97).mean(), scan(147).mean()), rel=1e-6)
    write_json(root, {**read_json(root), "modality": {"0": "FLAIR", "1": "T1", "2": "T2"}})
    assert len(found(check(root), "2 channels; expected 3 channels")) == 4


def test_a_vanished_case_is_set_aside(tmp_path: Path) -> None:
    root = plain_dataset(tmp_path, cases=7)
    cohort = find_cohort(root)
    (root / "images" / "b.nii.gz").unlink()
    (root / "labels" / "c.nii.gz").unlink()
    report = check_cohort(cohort)
    assert report.ok
    assert {(problem.case, problem.severity) for problem in report.problems} == {("b", "aside"), ("c", "aside")}
    assert [case.id for case in report.cohort.cases] == ["a", "d", "e", "f", "g"]
    assert set(report.facts) == {"a", "d", "e", "f", "g"}


def test_unreadable_for_other_reasons_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = plain_dataset(tmp_path, cases=7)
    ordinary = Path.open

    def guarded(self: Path, *args, **kwargs):
        if self.name == "b.nii.gz":  # the superuser may read everything, so the refusal is simulated
            raise PermissionError(13, "Permission denied", str(self))
        return ordinary(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", guarded)
    report = check(root)
    assert report.ok
    assert found(report, "Permission denied")[0].severity == "aside"


def test_duplicate_of_a_labelled_image_is_dropped_from_the_unlabelled(tmp_path: Path) -> None:
    root = plain_dataset(tmp_path, cases=7)
    packed = gzip.decompress((root / "images" / "a.nii.gz").read_bytes())
    (root / "images" / "g.nii.gz").write_bytes(gzip.compress(packed, 9))  # same content, other bytes
    report = check(root)
    assert report.ok
    assert found(report, "the same image as case a")[0].severity == "warn"
    assert "g" not in {case.id for case in report.cohort.cases}
    assert "g" not in report.facts


@pytest.mark.parametrize(("same_label", "severity"), [(True, "warn"), (False, "refuse")])
def test_duplicate_among_the_labelled(tmp_path: Path, same_label: bool, severity: str) -> None:
    root = plain_dataset(tmp_path, cases=7)
    (root / "images" / "b.nii.gz").write_bytes((root / "images" / "a.nii.gz").read_bytes())
    if not same_label:
        write_nifti(root / "labels" / "b.nii.gz", label()[::-1])
    assert [problem.severity for problem in found(check(root), "the same image as case a")] == [severity]


def test_a_training_scan_among_the_test_scans_is_refused(tmp_path: Path) -> None:
    root = nnunet_dataset(tmp_path / "scans")
    training = sorted((root / "imagesTr").glob("*.nii.gz"))
    case = training[0].name.removesuffix("_0000.nii.gz")
    tests = root / "imagesTs"
    tests.mkdir(exist_ok=True)
    for file in training:
        if file.name.startswith(f"{case}_"):
            shutil.copyfile(file, tests / file.name.replace(case, "unseen"))
    problems = [problem for problem in check(root).problems if "training case" in problem.found]
    assert [(problem.severity, problem.case) for problem in problems] == [("refuse", case)]
    # One channel of it alone is another image.
    next(tests.glob("unseen_0001*")).unlink()
    assert not [problem for problem in check(root).problems if "training case" in problem.found]


def test_every_label_empty_is_refused(tmp_path: Path) -> None:
    root = plain_dataset(tmp_path)
    for name in "ab":
        write_nifti(root / "labels" / f"{name}.nii.gz", np.zeros_like(label()))
    report = check(root)
    assert not report.ok
    assert found(report, "every label is empty")[0].severity == "refuse"
    assert len(found(report, "label: found empty")) == 2


def test_masks_of_255_are_explained(tmp_path: Path) -> None:
    root = plain_dataset(tmp_path)
    for name in "ab":
        write_nifti(root / "labels" / f"{name}.nii.gz", (label() > 0).astype(np.uint8) * 255)
    assert "write 1 in its place" in found(check(root), "every label is empty")[0].fix


def test_class_in_no_case_is_refused(tmp_path: Path) -> None:
    root = plain_dataset(tmp_path)
    write_json(root, {"labels": {"background": 0, "organ": 1, "lesion": 2, "cyst": 3, "any": [3, 4]}})
    report = check(root)
    refused = [problem.field for problem in report.problems if problem.severity == "refuse"]
    assert refused == ["class cyst", "class any"]


def test_one_labelled_case_is_told_what_it_cannot_claim(tmp_path: Path) -> None:
    report = check(plain_dataset(tmp_path, cases=3, unlabelled=2))
    assert report.ok
    assert [problem.severity for problem in found(report, "no validation is claimed")] == ["warn"]


def test_no_labelled_case_is_refused(tmp_path: Path) -> None:
    report = check(plain_dataset(tmp_path, cases=3, unlabelled=3))
    with pytest.raises(InputError, match="3 cases, none with a label"):
        report.raise_if_refused()


def test_mixed_channels_are_refused(tmp_path: Path) -> None:
    root = tmp_path
    for name in ("p_0000", "p_0001", "q_0000", "q_0001"):
        write_nifti(root / "images" / f"{name}.nii.gz", scan(int(name[-1]) + ord(name[0])))
    write_nifti(root / "labels" / "p.nii.gz", label())
    write_nifti(root / "images" / "q_0001.nii.gz", scan(3)[:, :, :5])
    assert found(check(root), "8 x 9 x 5; expected 8 x 9 x 7")
    write_json(root, {"channel_names": {"0": "T1"}})
    write_nifti(root / "images" / "q_0001.nii.gz", scan(3))
    assert len(found(check(root), "channels: found 2 in 2 files; expected 1 channels")) == 2


def test_table_counts_and_volumes(tmp_path: Path) -> None:
    table = check(plain_dataset(tmp_path)).table()
    assert (table["cases"], table["labelled"], table["unlabelled"]) == (3, 2, 1)
    assert table["size"][1] == [9, 9, 9]
    assert table["spacing"][2] == pytest.approx([3, 3, 3])
    volume = table["volumes"]["class 1"]
    assert (volume["cases"], volume["of"]) == (2, 2)
    assert volume["volume"] == pytest.approx([12 * 9 / 1000] * 3)  # voxels of 1.5 x 2 x 3 mm


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    check(plain_dataset(tmp_path), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3, 3)


def test_checking_needs_no_torch() -> None:
    modules = "foveate.cohort.check, foveate.cohort.show, foveate.cohort.fingerprint"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_real_scans(shared_data: Path) -> None:
    report = check(shared_data / "hippocampus", labelled=shared_data / "hippocampus" / "labelled_8.txt")
    assert report.ok
    assert (len(report.cohort.labelled), len(report.cohort.unlabelled)) == (8, 192)
    assert report.cohort.classes == {"class 1": 1, "class 2": 2}


def test_a_training_names_a_few_problems_of_a_kind_and_counts_the_others(tmp_path):
    problems = [Problem(f"{n}.png", "appearance", "odd", "even", "Look.", "warn") for n in range(5)]
    problems += [
        Problem("9.png", "appearance", "odd", "even", "Look.", "aside"),
        Problem("a", "b", "c", "d", "e", "warn"),
    ]
    notes = CheckReport(Cohort(tmp_path, "plain", 3, (), (), {}), {}, problems).notes()
    assert notes[:3] == [str(problem) for problem in problems[:3]]
    assert notes[3] == f"appearance: 2 more like these. foveate check {tmp_path} lists them."
    assert notes[4:] == [str(problems[5]), str(problems[6])]
