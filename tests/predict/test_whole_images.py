"""Models of whole images from files to predictions: train, report, predict, load; what cannot be done says why."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

import foveate
from foveate.batches.grid import Grid
from foveate.cohort.check import check
from foveate.cohort.fingerprint import fingerprint
from foveate.cohort.planning import CPU, make_plan
from foveate.config import NetworkConfig, load_config
from foveate.engine.train import train
from foveate.errors import InputError
from foveate.io import read_image
from foveate.io.volume import Volume
from foveate.networks import build_network
from foveate.predict.files import predict_files
from foveate.predict.whole import WholePredictor
from foveate.tasks import build_task
from toys import tiny_plan

SMALL = {"batch": 6, "widths": (4, 6, 8), "strides": ((1, 1), (2, 2), (2, 2)), "patch": (16, 16)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Dark and bright pictures of several sizes, 12 of each, and four without label."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(28):
        name = "unlabelled" if number >= 24 else ("dark", "bright")[number % 2]
        (root / name).mkdir(exist_ok=True)
        shape = (int(random.integers(12, 30)), int(random.integers(12, 30)))
        image = random.normal(100, 20, shape)
        image[: shape[0] // 2] += 60 * (number % 2)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / name / f"p{number}.png")
    return root


def start(run: Path, data: Path, **changes: object) -> None:
    """A run folder with a plan of a small network."""
    report = check(data)
    plan = make_plan(report.cohort, fingerprint(report), CPU.scaled(0.02))
    run.mkdir()
    plan.model_copy(update=SMALL | changes).write(run / "plan.json")


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    start(folder, pictures)
    settings = ["validation=10", "method.start=0"]
    return train(pictures, folder, steps=4, method="self_training", device="cpu", set=settings, quiet=True)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_of_classification(run, pictures):
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [record["macro_f1"] for record in log if "macro_f1" in record]
    assert any(record.get("labelled") == 4 for record in log)  # pseudo-labels were made
    task = json.loads((run / "model" / "model.json").read_text())["task"]
    assert task["name"] == "classification"
    assert task["temperature"] != 1  # fitted on the ten held back
    page = (run / "report.html").read_text()
    for words in ("Validation macro F1", "Answers for held-back cases", "Answer: ", "Label: dark"):
        assert words in page


@pytest.mark.parametrize(("few", "method"), [(3, "mean_teacher"), (4, "supervised")])
def test_the_method_of_few_labelled_pictures(pictures, tmp_path, few, method, capsys):
    """At most 7% of 44, and one more; a run that goes on keeps its method."""
    root = shutil.copytree(pictures, tmp_path / "pictures")
    for number in range(16):
        image = np.random.default_rng(number).integers(0, 255, (20, 20), np.uint8)
        Image.fromarray(image).save(root / "unlabelled" / f"more{number}.png")
    names = [f"{kind}/{file.stem}" for kind in ("dark", "bright") for file in sorted((pictures / kind).iterdir())]
    (tmp_path / "ids.txt").write_text("\n".join([*names[: few - 1], names[-1]]))
    start(tmp_path / "run", root)
    for _ in range(2):
        train(root, tmp_path / "run", labelled=tmp_path / "ids.txt", steps=2, device="cpu", resume=True)
        assert load_config(tmp_path / "run" / "config.yaml").method.name == method
    said = f"Method: {method}, as {few} of 44 images have labels" in " ".join(capsys.readouterr().out.split())
    assert said == (method != "supervised")


def test_table_of_probabilities(run, pictures, tmp_path):
    (path,) = predict_files(run, pictures, tmp_path / "out")
    found = rows(path)
    assert path.name == "predictions.csv"
    assert [row["case"] for row in found] == sorted(
        file.relative_to(pictures).with_suffix("").as_posix() for file in pictures.rglob("*.png")
    )
    for row in found:
        p = [float(row["bright"]), float(row["dark"])]
        assert sum(p) == pytest.approx(1, abs=1e-4)
        assert row["label"] == ("bright", "dark")[int(np.argmax(p))]
    alone = foveate.load(run, device="cpu").predict(pictures / "dark" / "p0.png")
    row = next(row for row in found if row["case"] == "dark/p0")
    np.testing.assert_allclose(alone, [float(row["bright"]), float(row["dark"])], atol=1e-4)
    (turned,) = foveate.predict_files(run, pictures / "dark" / "p0.png", tmp_path / "turned.csv", views=3, device="cpu")
    averaged = foveate.load(run, device="cpu").predict(pictures / "dark" / "p0.png", views=3)
    np.testing.assert_allclose(averaged, [float(rows(turned)[0][name]) for name in ("bright", "dark")], atol=1e-4)
    assert np.abs(averaged - alone).max() > 1e-5
    (one,) = predict_files(run, pictures / "dark" / "p0.png", tmp_path / "one.csv")
    assert rows(one) == [{**row, "case": "p0"}]


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_written(run, pictures, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.png").write_bytes((pictures / "dark" / "p0.png").read_bytes())
    (folder / "torn.png").write_bytes((pictures / "dark" / "p0.png").read_bytes()[:100])
    Image.open(folder / "good.png").convert("LA").save(folder / "opaque.png")
    said = []
    with pytest.raises(InputError, match=r"torn\.png"):
        predict_files(run, folder, tmp_path / "out", note=said.append)
    assert [row["case"] for row in rows(tmp_path / "out" / "predictions.csv")] == ["good", "opaque"]
    assert len(said) == 1
    assert "opaque.png: alpha" in said[0]


def test_regression_of_volumes(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "data" / "images").mkdir(parents=True)
    lines = ["case,value"]
    for number in range(22):
        image = random.normal(0, 1, (9, 10, 8)).astype(np.float32) + number
        nib.save(nib.Nifti1Image(image, np.diag([2.0, 1, 1, 1])), tmp_path / "data" / "images" / f"v{number}.nii.gz")
        lines += [f"v{number},{10 + number}"] if number < 20 else []
    (tmp_path / "data" / "labels.csv").write_text("\n".join(lines))
    run = tmp_path / "run"
    start(run, tmp_path / "data", widths=(4, 6), strides=((1, 1, 1), (1, 2, 2)), patch=(10, 10, 8))
    plan = json.loads((run / "plan.json").read_text())
    assert (plan["target_mean"], plan["target_std"]) == (19.5, pytest.approx(33.25**0.5))
    train(tmp_path / "data", run, steps=2, device="cpu", set=["validation=10"], quiet=True)
    (path,) = predict_files(run, tmp_path / "data", tmp_path / "out")
    found = rows(path)
    assert len(found) == 22
    assert all(float(row["low"]) < float(row["value"]) < float(row["high"]) for row in found)


def test_numbers_far_from_zero_keep_what_tells_them_apart(tmp_path):
    """Values about 1e6 that differ by tens: neither float32 nor six digits of them hold the difference."""
    plan = tiny_plan(2, task="regression", whole=True, classes={}, loss="gaussian", target_mean=1e6, target_std=10.0)
    task = build_task(plan)
    torch.manual_seed(0)
    predictor = WholePredictor(build_network(NetworkConfig(name="classifier"), plan, task.channels), task, plan)
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"p{number}.png")
    (path,) = predict_files(predictor, tmp_path, tmp_path / "out")
    for number, row in enumerate(rows(path)):
        image = predictor.prepare(read_image([tmp_path / f"p{number}.png"]))
        answer, log_variance = predictor.logits([image])[0].astype(float)
        half = 1.645 * 10 * np.exp(log_variance / 2)
        exact = [1e6 + 10 * answer, 1e6 + 10 * answer - half, 1e6 + 10 * answer + half]
        np.testing.assert_allclose([float(row[name]) for name in ("value", "low", "high")], exact, rtol=0, atol=1e-3)


def test_pictures_of_any_size_fit_the_patch_and_keep_their_proportions():
    plan = tiny_plan(2, task="classification", whole=True, patch=(32, 48))
    for shape, expected in (((64, 64), (32, 32)), ((10, 60), (8, 48)), ((3, 3), (32, 32)), ((500, 7), (32, 1))):
        grid = Grid.of(Volume(np.zeros((1, *shape), np.float32), np.eye(4)), plan)
        assert grid.prepared_shape == expected


@pytest.mark.parametrize("dims", [2, 3])
def test_volumes_keep_their_size_and_lie_in_the_middle(dims):
    plan = tiny_plan(dims, task="classification", whole=True, classes={"a": 0, "b": 1})
    task = build_task(plan)
    predictor = WholePredictor(build_network(NetworkConfig(name="classifier"), plan, task.channels), task, plan)
    for n in (9, 10, 16, 21, 22):
        placed = predictor.place(np.ones((1, n, *[16] * (dims - 1)), np.float32))
        assert placed.shape == (1, *plan.patch)
        assert placed.sum() == min(n, 16) * 16 ** (dims - 1)


def test_mirrored_pictures_get_one_answer():
    plan = tiny_plan(2, task="classification", whole=True, classes={"a": 0, "b": 1}, mirror_axes=(1,))
    task = build_task(plan)
    torch.manual_seed(0)
    predictor = WholePredictor(build_network(NetworkConfig(name="classifier"), plan, task.channels), task, plan)
    image = np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32)
    there, back = (predictor.logits([x]) for x in (image, image[..., ::-1]))
    np.testing.assert_allclose(there, back, atol=1e-5)
    assert np.abs(predictor.logits([image], ()) - predictor.logits([image[..., ::-1]], ())).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "copy_paste"}, "pastes a part of one scan"),
        ({"network": "unet"}, "a network for classification: classifier"),
        ({"pretrain": "dbn"}, "trains the encoder of a U-Net for segmentation"),
        ({"task": "regression"}, "class folders layout"),
        ({"set": ["network.crf=true"]}, "network.crf"),
        ({"set": ["network.attention.skip=gate"]}, "network.attention.skip"),
        ({"set": ["network.attention.pool=maen"]}, "Did you mean 'mean'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_prepared(pictures, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        train(pictures, tmp_path / "run", steps=1, device="cpu", quiet=True, **options)
    assert not (tmp_path / "run" / "prepared").exists()
