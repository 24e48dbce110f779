"""From a folder of scans to scores, through the public names, for every layout, 2D and 3D."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import foveate
from foveate.cli import main
from foveate.cohort.plan import ChannelPlan, Plan
from foveate.errors import FoveateError, InputError
from foveate.predict.files import predict_files
from foveate.report.run import read_log

# Left, posterior, superior with axes permuted: what comes back must lie where the scan lies.
AFFINE = np.array([[0, -1.5, 0, 30], [-2, 0, 0, 40], [0, 0, 1, -7], [0, 0, 0, 1.0]])
SHAPE = (16, 20, 17)


def ball(seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball with a brighter core in noise, and its label: 1 = shell, 2 = core."""
    random = np.random.default_rng(seed)
    centre = [random.uniform(0.4, 0.6) * n for n in shape]
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), centre, strict=True)))
    label = (distance < 5.5).astype(np.uint8) + (distance < 3)
    return (60 * label + random.normal(20, 4, shape)).astype(np.float32), label.astype(np.uint8)


def plan(dims: int, channels: int, classes: dict, spacing: float = 1.5) -> Plan:
    """A network of a few hundred weights that learns the balls within seconds."""
    return Plan(
        dims=dims,
        spacing=(spacing,) * dims,
        patch=(16,) * dims,
        batch=4,
        channels=tuple(ChannelPlan(name=str(i), normalisation="zscore") for i in range(channels)),
        classes=classes,
        widths=(8, 16),
        strides=((1,) * dims, (2,) * dims),
    )


def put_plan(run: Path, settled: Plan) -> Path:
    run.mkdir()
    settled.write(run / "plan.json")
    return run


def volumes(root: Path, labelled: int = 4, cases: int = 6, images: str = "images", labels: str = "labels") -> Path:
    for part in (images, labels):
        (root / part).mkdir(parents=True)
    suffix = "_0000" if images == "imagesTr" else ""
    for number in range(cases):
        scan, label = ball(number)
        nib.save(nib.Nifti1Image(scan, AFFINE), root / images / f"c{number}{suffix}.nii.gz")
        if number < labelled:
            nib.save(nib.Nifti1Image(label, AFFINE), root / labels / f"c{number}.nii.gz")
    return root


def held_out(root: Path) -> Path:
    """Scans of other balls with their labels."""
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number in (100, 101):
        scan, label = ball(number)
        nib.save(nib.Nifti1Image(scan, AFFINE), root / "images" / f"t{number}.nii.gz")
        nib.save(nib.Nifti1Image(label, AFFINE), root / "labels" / f"t{number}.nii.gz")
    return root


def pictures(root: Path, colour: bool = False) -> Path:
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number in range(6):
        scan, label = ball(number, (24, 31))
        grey = scan.clip(0, 255).astype(np.uint8)
        picture = np.stack([grey, grey // 2, 255 - grey], -1) if colour else grey
        Image.fromarray(picture).save(root / "images" / f"p{number}.png")
        if number < 4:
            Image.fromarray(label).save(root / "labels" / f"p{number}.png")
    return root


@pytest.mark.parametrize("method", ["supervised", "self_training", "mean_teacher", "copy_paste"])
def test_volumes_from_the_folder_to_the_scores(tmp_path: Path, method: str) -> None:
    data, test = volumes(tmp_path / "scans"), held_out(tmp_path / "test")
    run = put_plan(tmp_path / "run", plan(3, 1, {"class 1": 1, "class 2": 2}))
    options = ["validation=1", "optimiser.learning_rate=0.01", "method.start=0.2"]
    foveate.train(data, run, method=method, steps=100, set=options, quiet=True)
    written = predict_files(run, test / "images", tmp_path / "out")
    for path in written:
        result, scan = nib.load(path), nib.load(test / "images" / path.name)
        assert result.shape == scan.shape
        assert result.get_data_dtype() == np.uint8
        np.testing.assert_allclose(result.affine, scan.affine)
    scores = foveate.evaluate(tmp_path / "out", test)
    assert scores.mean("dice") > 0.7
    # A model in memory answers as the command does.
    again = foveate.load(run).predict(test / "images" / "t100.nii.gz")
    np.testing.assert_array_equal(again, np.asarray(nib.load(tmp_path / "out" / "t100.nii.gz").dataobj))
    records = read_log(run)
    assert any(record.get("dice") is not None for record in records)
    assert any("unlabelled dice" in record.get("losses", {}) for record in records) == (method == "mean_teacher")
    assert (run / "report.html").stat().st_size > 10_000
    assert set(json.loads((run / "provenance.json").read_text())["data"]) == {f"c{n}" for n in range(6)}


def test_a_network_that_ends_in_a_crf_labels_scans(tmp_path: Path) -> None:
    data = pictures(tmp_path / "pictures")
    run = put_plan(tmp_path / "run", plan(2, 1, {"class 1": 1, "class 2": 2}, spacing=1.0))
    options = ["network.crf=true", "optimiser.learning_rate=0.01", "precision=bfloat16"]
    foveate.train(data, run, steps=40, set=options, quiet=True)
    predict_files(run, data / "images", tmp_path / "out")
    assert foveate.evaluate(tmp_path / "out", data).mean("dice") > 0.6


def test_a_label_tree_with_cases_that_tell_the_coarse_label_alone(tmp_path: Path) -> None:
    data, test = volumes(tmp_path / "scans"), held_out(tmp_path / "test")
    about = {"labels": {"background": 0, "shell": 1, "core": 2, "ball": 3}, "tree": {"ball": ["shell", "core"]}}
    for root in (data, test):
        (root / "dataset.json").write_text(json.dumps(about))
    for coarse in (data / "labels" / "c1.nii.gz", data / "labels" / "c2.nii.gz", test / "labels" / "t101.nii.gz"):
        label = 3 * (np.asarray(nib.load(coarse).dataobj) > 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, AFFINE), coarse)
    settled = plan(3, 1, {"shell": 1, "core": 2, "ball": 3})
    run = put_plan(tmp_path / "run", settled.model_copy(update={"tree": {"ball": ("shell", "core")}}))
    options = ["network.head=dense_upsampling", "optimiser.learning_rate=0.01"]
    foveate.train(data, run, steps=50, set=options, quiet=True)
    predict_files(run, test / "images", tmp_path / "out")
    scores = foveate.evaluate(tmp_path / "out", test)
    assert scores.classes == ("shell", "core")
    assert scores.mean("dice") > 0.6
    states = {case.id: {score.state for score in case.classes.values()} for case in scores.cases}
    assert states == {"t100": {"scored"}, "t101": {"absent"}}


def test_regions_and_channels_in_nnunet_layout_through_the_commands(tmp_path: Path, capsys) -> None:
    data = volumes(tmp_path / "Dataset007_Ball", images="imagesTr", labels="labelsTr")
    for file in list((data / "imagesTr").iterdir()):
        second = nib.Nifti1Image(-nib.load(file).get_fdata(dtype=np.float32), AFFINE)
        nib.save(second, file.with_name(file.name.replace("_0000", "_0001")))
    about = {
        "channel_names": {"0": "bright", "1": "dark"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (data / "dataset.json").write_text(json.dumps(about))
    run = put_plan(tmp_path / "run", plan(3, 2, {"whole": (1, 2), "core": 2}))
    options = ["--steps", "60", "--set", "optimiser.learning_rate=0.01", "--set", "network.attention.skip=gate"]
    for command in (
        ["check", str(data)],
        ["train", str(data), str(run), *options],
        ["predict", str(run), str(data / "imagesTr"), str(tmp_path / "out")],
        ["evaluate", str(tmp_path / "out"), str(data), "--json", str(tmp_path / "scores.json")],
    ):
        with pytest.raises(SystemExit) as exit_:
            main(command)
        assert exit_.value.code in (0, None), capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["dice/whole"] > 0.7
    assert scores["dice/core"] > 0.5
    values = np.unique(np.asarray(nib.load(tmp_path / "out" / "c0.nii.gz").dataobj))
    assert set(values) <= {0, 1, 2}


@pytest.mark.parametrize("colour", [False, True])
def test_pictures(tmp_path: Path, colour: bool) -> None:
    data = pictures(tmp_path / "pictures", colour)
    run = put_plan(tmp_path / "run", plan(2, 3 if colour else 1, {"class 1": 1, "class 2": 2}, spacing=1.0))
    foveate.train(data, run, steps=60, set=["optimiser.learning_rate=0.01"], quiet=True)
    predict_files(run, data / "images", tmp_path / "out")
    result = np.asarray(Image.open(tmp_path / "out" / "p5.png"))
    assert result.dtype == np.uint8
    assert result.shape == (24, 31)
    assert foveate.evaluate(tmp_path / "out", data).mean("dice") > 0.6


def test_labels_that_are_not_named_are_never_opened(tmp_path: Path) -> None:
    data = volumes(tmp_path / "scans")
    for case in ("c2", "c3"):
        (data / "labels" / f"{case}.nii.gz").write_bytes(b"not to be opened")
    (tmp_path / "allowed.txt").write_text("c0\nc1\n")
    run = put_plan(tmp_path / "run", plan(3, 1, {"class 1": 1, "class 2": 2}))
    foveate.train(data, run, labelled=tmp_path / "allowed.txt", steps=3, quiet=True)
    hashes = json.loads((run / "provenance.json").read_text())["data"]
    assert [case for case, parts in hashes.items() if parts["label"]] == ["c0", "c1"]
    with pytest.raises(InputError, match="c2"):
        foveate.train(data, tmp_path / "other", steps=3, quiet=True)


def test_one_labelled_case_is_planned_and_trained_and_claims_nothing(tmp_path: Path, capsys) -> None:
    data = volumes(tmp_path / "scans", labelled=1, cases=3)
    run = foveate.train(data, tmp_path / "run", steps=2)
    assert "no score is claimed" in capsys.readouterr().out
    planned = Plan.read(run / "plan.json")
    assert planned.step_seconds is not None
    assert planned.spacing == pytest.approx((1.5, 2.0, 1.0), abs=0.01)
    assert foveate.load(run).predict(data / "images" / "c2.nii.gz").shape == SHAPE


def test_the_last_line_of_a_training_has_the_score_of_its_end(tmp_path: Path, capsys) -> None:
    data = volumes(tmp_path / "scans")
    run = put_plan(tmp_path / "run", plan(3, 1, {"class 1": 1, "class 2": 2}))
    foveate.train(data, run, steps=30, set=["validation=1", "optimiser.learning_rate=0.01"])
    before, last = [record["dice"] for record in read_log(run) if "dice" in record][-2:]
    assert f"{before:.3f}" != f"{last:.3f}"
    line = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")][-1]
    assert line.startswith("step 30/30")
    assert f"Dice {last:.3f}" in line


@pytest.mark.parametrize("clock", ["wall", "processor"])
def test_a_bound_in_minutes_is_kept(tmp_path: Path, clock: str) -> None:
    data = volumes(tmp_path / "scans", labelled=2, cases=3)
    run = put_plan(tmp_path / "run", plan(3, 1, {"class 1": 1, "class 2": 2}))
    foveate.train(data, run, minutes=0.1, set=[f"clock={clock}"], quiet=True)
    records = read_log(run)
    assert records[-1]["seconds"] <= 6.0
    assert records[-1]["learning_rate"] < 0.2 * max(record["learning_rate"] for record in records)


def test_a_bound_too_short_for_a_step_says_so(tmp_path: Path) -> None:
    data = volumes(tmp_path / "scans", labelled=2, cases=3)
    run = put_plan(tmp_path / "run", plan(3, 1, {"class 1": 1, "class 2": 2}))
    with pytest.raises(FoveateError, match="before the first step"):
        foveate.train(data, run, minutes=1e-4, quiet=True)
    assert not (run / "model").exists()


def test_a_structure_that_every_label_shows_in_one_piece_is_predicted_in_one(tmp_path, capsys):
    data = volumes(tmp_path / "data")
    classes = {"class 1": 1, "class 2": 2}
    run = put_plan(tmp_path / "run", plan(3, 1, classes))
    foveate.train(data, run, steps=8, quiet=True)
    assert json.loads((run / "model" / "model.json").read_text())["task"]["one_piece"] == list(classes)

    def pieces(file: Path) -> list[int]:
        label = np.asarray(nib.load(file).dataobj)
        return [ndimage.label(label == value, np.ones((3, 3, 3)))[1] for value in classes.values()]

    scan = data / "images" / "c0.nii.gz"

    def predict(out: Path, *options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["predict", str(run), str(scan), str(out), *options])
        assert ended.value.code == 0
        return capsys.readouterr().err

    assert "left out" not in predict(tmp_path / "all.nii.gz", "--all-pieces")
    assert max(pieces(tmp_path / "all.nii.gz")) > 1, "a few steps of training leave crumbs"
    told = predict(tmp_path / "tidy.nii.gz")
    assert "in 1 of 1 scans, what lies apart from the largest piece was left out" in told
    assert max(pieces(tmp_path / "tidy.nii.gz")) == 1
    assert (foveate.load(run).predict(scan) == np.asarray(nib.load(tmp_path / "tidy.nii.gz").dataobj)).all()

    lesions = put_plan(tmp_path / "lesions", plan(3, 1, classes))
    foveate.train(data, lesions, steps=1, quiet=True, set=["pieces=all"])
    assert json.loads((lesions / "model" / "model.json").read_text())["task"]["one_piece"] == []
