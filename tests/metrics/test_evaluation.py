"""Evaluation of real files: what is scored, what is counted, what is refused."""

import csv
import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from foveate.cli import main
from foveate.errors import InputError
from foveate.files import Unwritable
from foveate.io import Volume, read_label, write_label
from foveate.metrics import evaluate, paired_difference
from foveate.metrics.surface import diagonal

SHAPE, SPACING = (20, 18, 16), (1.0, 0.5, 2.0)
DIAGONAL = diagonal(SHAPE, SPACING)


def block(start: int = 4, value: int = 1, size: int = 6) -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[start : start + size, 5:12, 4:10] = value
    return labels


def save(path: Path, labels: np.ndarray, spacing: tuple[float, ...] = SPACING, origin: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing, 1.0]) if labels.ndim == 3 else np.eye(4)
    affine[0, 3] += origin
    write_label(path, labels, Volume(labels[None], affine))
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for case in range(6):
        save(tmp_path / "labels" / f"case_{case}.nii.gz", block() | block(10, 2))
        save(tmp_path / "out" / f"case_{case}.nii.gz", block() | block(10 + case % 3, 2, 6 - case % 3))
    return tmp_path / "out", tmp_path / "labels"


def test_a_perfect_prediction(tmp_path: Path) -> None:
    one = save(tmp_path / "label.nii.gz", block())
    evaluation = evaluate(one, one)
    scores = evaluation.to_json()
    assert (scores["dice"], scores["hd95_mm"], scores["asd_mm"], scores["nsd"]) == (1, 0, 0, 1)
    assert scores["dice_interval"] == [None, None]  # one case: no interval is claimed


def test_a_shift_of_one_voxel_is_its_spacing_in_mm(tmp_path: Path) -> None:
    prediction, label = save(tmp_path / "p.nii.gz", block(5)), save(tmp_path / "l.nii.gz", block(4))
    evaluation = evaluate(prediction, label, tolerance_mm=0.9)
    assert evaluation.mean("hd95") == pytest.approx(1.0)
    assert evaluation.mean("dice") == pytest.approx(5 / 6)
    assert evaluation.mean("nsd") < 1
    assert evaluate(prediction, label, tolerance_mm=1.0).mean("nsd") == 1


def test_a_missing_prediction_and_a_missing_structure_count_as_zero(folders: tuple[Path, Path]) -> None:
    out, labels = folders
    (out / "case_0.nii.gz").unlink()
    save(out / "case_1.nii.gz", block())
    evaluation = evaluate(out, labels)
    assert evaluation.missing_predictions == ["case_0"]
    assert [case.id for case in evaluation.cases[:2]] == ["case_0", "case_1"]  # worst first
    assert set(evaluation.listed("missing")) == {("case_0", "1"), ("case_0", "2"), ("case_1", "2")}
    worst = evaluation.cases[0].classes["2"]
    assert (worst.dice, worst.nsd) == (0, 0)
    assert worst.hd95 == worst.asd == pytest.approx(DIAGONAL)
    # Two of six cases give 0 for class 2; the others what they gave before.
    dice = [case.classes["2"].dice for case in evaluation.cases]
    assert evaluation.mean("dice", "2") == pytest.approx(sum(dice) / 6)
    assert evaluation.mean() == pytest.approx((evaluation.mean(name="1") + evaluation.mean(name="2")) / 2)


def test_a_structure_in_neither_does_not_apply_and_one_in_the_prediction_only_costs(tmp_path: Path) -> None:
    labels, out = tmp_path / "labels", tmp_path / "out"
    save(labels / "a.nii.gz", block() | block(10, 2))
    save(out / "a.nii.gz", block() | block(10, 2))
    save(labels / "b.nii.gz", block())
    save(out / "b.nii.gz", block())
    save(labels / "c.nii.gz", block())
    save(out / "c.nii.gz", block() | block(10, 2))
    evaluation = evaluate(out, labels)
    assert evaluation.listed("absent") == [("b", "2")]
    assert evaluation.listed("spurious") == [("c", "2")]
    assert evaluation.mean("dice", "2") == pytest.approx(0.5)  # a: 1, b: does not apply, c: 0
    scores = evaluation.to_json()
    assert next(row for row in scores["cases"] if row["case"] == "b")["dice/2"] is None


def test_the_json_file_is_whole_valid_json_with_flat_keys(folders: tuple[Path, Path], tmp_path: Path) -> None:
    classes = {"background": 0, "anterior": 1, "posterior": 2, "whole": [1, 2], "tail": 7}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": classes}))
    target = tmp_path / "new" / "scores.json"
    evaluation = evaluate(*folders, json=target)
    scores = json.loads(target.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert scores["dice"] == pytest.approx(evaluation.mean())
    assert scores["dice/anterior"] == 1
    low, high = scores["dice/posterior_interval"]
    assert low <= scores["dice/posterior"] <= high
    # A region is its values joined: the posterior block that is cut away is all that the whole lacks.
    row = next(row for row in scores["cases"] if row["case"] == "case_1")
    assert row["dice/whole"] == pytest.approx(2 * 11 / (11 + 12))
    assert scores["dice/tail"] is None  # in no case at all
    assert list(target.parent.iterdir()) == [target]  # no temporary file is left


def test_every_key_of_the_json_file_is_documented(folders: tuple[Path, Path]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    scores = evaluate(*folders).to_json()
    rows = {key for row in scores["cases"] for key in row}
    keys = {key.split("/")[0].removesuffix("_interval") for key in (*scores, *rows)}
    assert [key for key in sorted(keys) if f"`{key}`" not in text and f"`{key}/<class>`" not in text] == []


def test_ignored_voxels_do_not_count(tmp_path: Path) -> None:
    label = block()
    label[12:] = 255
    prediction = block()
    prediction[14:18] = 1
    evaluation = evaluate(save(tmp_path / "p.nii.gz", prediction), save(tmp_path / "l.nii.gz", label))
    assert evaluation.mean("dice") == 1
    assert evaluation.mean("hd95") == 0


def test_pictures_are_measured_in_pixels(tmp_path: Path) -> None:
    label, prediction = np.zeros((2, 30, 40), dtype=np.uint8)
    label[5:15, 5:15] = 1
    prediction[7:17, 5:15] = 1
    scores = evaluate(save(tmp_path / "p.png", prediction), save(tmp_path / "l.png", label)).to_json()
    assert scores["unit"] == "px"
    assert scores["hd95_px"] == pytest.approx(2)
    assert "hd95_mm" not in scores


@pytest.mark.parametrize("lossy", ["predictions", "labels"])
def test_a_jpeg_is_no_label_map(tmp_path: Path, lossy: str) -> None:
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[5:15, 5:15] = 1
    for folder in ("predictions", "labels"):
        save(tmp_path / folder / "a.png", mask)
    Image.fromarray(mask).save(tmp_path / lossy / "a.jpg")
    (tmp_path / lossy / "a.png").unlink()
    with pytest.raises(InputError, match=rf"{lossy}/a.jpg: label: found a JPEG picture"):
        evaluate(tmp_path / "predictions", tmp_path / "labels")


def test_every_file_that_cannot_be_scored_is_named_in_one_pass(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out, labels = folders
    save(out / "case_0.nii.gz", block()[:-1])
    save(out / "case_1.nii.gz", block(), origin=3.0)
    save(out / "case_2.nii.gz", block(value=9))
    (out / "case_3.nii.gz").write_bytes(b"<html>not found</html>")
    target = tmp_path / "scores.json"
    target.write_text("earlier")
    with pytest.raises(InputError) as caught:
        evaluate(out, labels, json=target)
    by_case = {Path(problem.file).name: problem for problem in caught.value.problems}
    assert set(by_case) == {f"case_{i}.nii.gz" for i in range(4)}
    assert "19 x 18 x 16" in str(by_case["case_0.nii.gz"])
    assert "20 x 18 x 16" in str(by_case["case_0.nii.gz"])
    assert "3.00 mm" in str(by_case["case_1.nii.gz"])
    assert "9 (252 voxels)" in str(by_case["case_2.nii.gz"])
    assert target.read_text() == "earlier"


def test_a_result_that_has_no_place_is_said_before_the_work(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out, labels = folders
    save(out / "case_0.nii.gz", block()[:-1])  # which would be refused first
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unwritable, match="file: the folder cannot be made"):
        evaluate(out, labels, json=tmp_path / "file" / "scores.json")


def test_the_command_shows_its_numbers_before_it_writes_them(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SystemExit):
        main(["evaluate", str(folders[0]), str(folders[1]), "--json", str(tmp_path / "new" / "scores.json")])
    said = capsys.readouterr()
    assert "case_0" in said.out
    assert "disk is full" in said.err
    assert "Traceback" not in said.err


def test_the_decathlon_writes_value_to_name(folders: tuple[Path, Path]) -> None:
    out, labels = folders
    (labels.parent / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "left", "2": "right"}}))
    assert evaluate(out, labels.parent).classes == ("left", "right")  # the dataset folder, and labels/ inside it


def test_a_folder_of_links_to_labels_is_a_folder_of_labels(folders: tuple[Path, Path]) -> None:
    out, labels = folders
    chosen = out.parent / "chosen"
    chosen.mkdir()
    (chosen / "case_1.nii.gz").symlink_to(labels / "case_1.nii.gz")
    assert [case.id for case in evaluate(out, chosen).cases] == ["case_1"]


def test_a_reference_value_that_dataset_json_does_not_declare_is_refused(folders: tuple[Path, Path]) -> None:
    out, labels = folders
    (labels.parent / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "anterior": 1}}))
    with pytest.raises(InputError, match="label values: found 2"):
        evaluate(out, labels)


def test_predictions_of_other_cases_are_refused_and_extra_ones_are_listed(folders: tuple[Path, Path]) -> None:
    out, labels = folders
    save(out / "other.nii.gz", block())
    evaluation = evaluate(out, labels)
    assert len(evaluation.cases) == 6
    assert [Path(problem.file).name for problem in evaluation.problems] == ["other.nii.gz"]
    save(out.parent / "wrong" / "other.nii.gz", block())
    with pytest.raises(InputError, match="none of which has a label"):
        evaluate(out.parent / "wrong", labels)


def test_only_the_chosen_cases_count(folders: tuple[Path, Path]) -> None:
    out, labels = folders
    evaluation = evaluate(out, labels, cases=["case_2", "case_4"])
    assert {case.id for case in evaluation.cases} == {"case_2", "case_4"}
    assert not evaluation.problems  # predictions of labelled cases that were not asked for are not extra
    (out.parent / "test.txt").write_text("case_4\n# of the other hospital\ncase_2\n")
    assert evaluate(out, labels, cases=out.parent / "test.txt").to_json() == evaluation.to_json()
    with pytest.raises(InputError, match="case_9"):
        evaluate(out, labels, cases=["case_2", "case_9"])


@pytest.mark.parametrize("mask", [[0, 255], [0, 0]])
def test_references_without_a_structure_are_refused(tmp_path: Path, mask: list[int]) -> None:
    label = np.tile(np.array(mask, dtype=np.uint8), (8, 4))
    path = save(tmp_path / "mask.png", label)
    with pytest.raises(InputError, match="at least one structure"):
        evaluate(save(tmp_path / "p.png", np.zeros_like(label)), path)


def test_patients_are_resampled_whole(folders: tuple[Path, Path]) -> None:
    out, labels = folders
    alone = evaluate(out, labels)
    with (labels.parent / "patients.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["case", "patient"])
        rows.writerows([f"case_{i}", "first" if i % 3 == 2 else "second"] for i in range(6))
    grouped = evaluate(out, labels)
    assert grouped.patients == 2
    assert grouped.mean() == alone.mean()
    # Two patients that differ: half of the resamples hold one of them only, so the interval is their range.
    means = [np.mean([c.mean() for c in grouped.cases if c.patient == p]) for p in ("first", "second")]
    assert grouped.interval() == pytest.approx((min(means), max(means)))
    assert alone.interval()[1] - alone.interval()[0] < max(means) - min(means)


def test_paired_difference_sees_a_small_gain_that_the_spread_of_cases_would_hide(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for case in range(12):
        label = block(2, size=12)
        save(tmp_path / "labels" / f"{case}.nii.gz", label)
        cut = int(rng.integers(1, 9))
        for name, size in (("first", 12 - cut), ("second", 11 - cut)):
            save(tmp_path / name / f"{case}.nii.gz", block(2, size=size))
    first, second = (evaluate(tmp_path / name, tmp_path / "labels") for name in ("first", "second"))
    assert first.interval()[0] < second.interval()[1]  # the two intervals overlap
    mean, low, high = paired_difference(first, second)
    assert 0 < low < mean < high
    assert mean == pytest.approx(first.mean() - second.mean())
    back = paired_difference(second, first)
    assert back == pytest.approx((-mean, -high, -low))
    assert paired_difference(first, first) == (0, 0, 0)
    with pytest.raises(InputError, match="the same cases"):
        paired_difference(first, evaluate(tmp_path / "first", tmp_path / "labels", cases=["1", "2"]))


def test_the_printed_tables_fit_80_columns_and_name_what_is_missing(folders: tuple[Path, Path]) -> None:
    out, labels = folders
    (out / "case_0.nii.gz").unlink()
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    evaluate(out, labels).render(console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "No prediction file: 1" in text
    assert text.index("case_0") < text.index("case_2")
    assert all(f"case_{i}" in text for i in range(6))


def test_real_labels_against_themselves_moved_by_one_voxel(shared_data: Path, tmp_path: Path) -> None:
    source = sorted((shared_data / "hippocampus" / "labels").glob("*.nii.gz"))[:4]
    for path in source:
        volume = read_label(path)
        save_as = np.roll(volume.array[0], 1, axis=0)
        write_label(tmp_path / path.name, save_as, volume)
    ids = [path.name.removesuffix(".nii.gz") for path in source]
    evaluation = evaluate(tmp_path, shared_data / "hippocampus" / "labels", cases=ids)
    assert evaluation.classes == ("1", "2")
    assert 0.7 < evaluation.mean() < 0.95
    assert evaluation.mean("hd95") == pytest.approx(1.0, abs=0.01)
    assert evaluation.mean("nsd") == 1
    assert all(not math.isnan(bound) for bound in evaluation.interval())
