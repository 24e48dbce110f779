"""A run that starts from another one takes every weight that fits, says which, and goes on as the same run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from foveate.cohort.plan import ChannelPlan, Plan
from foveate.config import MethodConfig, NetworkConfig
from foveate.engine.checkpoint import Checkpoints
from foveate.engine.train import train
from foveate.engine.warm_start import start_from
from foveate.errors import InputError
from foveate.methods import METHODS, Method
from foveate.networks import build_network
from foveate.predict.model_file import load_model
from foveate.tasks import build_task

PLAN = Plan(
    dims=3,
    spacing=(1.5, 1.0, 1.0),
    patch=(8, 16, 16),
    batch=3,
    channels=(ChannelPlan(name="MR", normalisation="zscore"),),
    classes={"class 1": 1},
    widths=(4, 8),
    strides=((1, 1, 1), (2, 2, 2)),
)
GEOMETRY = ("spacing", "patch", "batch", "widths", "strides")
STILL = ["optimiser.learning_rate=1e-30", "optimiser.weight_decay=0"]  # steps that change no weight


def scans(root: Path, classes: int = 1, cases: int = 4, labelled: int = 2, seed: int = 0) -> Path:
    """Volumes of 16^3 voxels with a bright box for each class."""
    random = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for case in range(cases):
        label = np.zeros((16, 16, 16), np.uint8)
        for value in range(1, classes + 1):
            label[4 * value : 4 * value + 3, 4:12, 4:12] = value
        scan = (50 * label + random.normal(20, 4, label.shape)).astype(np.float32)
        nib.save(nib.Nifti1Image(scan, np.eye(4)), root / "images" / f"case{case}.nii.gz")
        if case < labelled:
            nib.save(nib.Nifti1Image(label, np.eye(4)), root / "labels" / f"case{case}.nii.gz")
    return root


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "foveate", *map(str, arguments)], capture_output=True, text=True)


def planned(folder: Path, plan: Plan = PLAN) -> Path:
    folder.mkdir()
    plan.write(folder / "plan.json")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scans(tmp_path_factory.mktemp("data") / "scans")


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = planned(tmp_path_factory.mktemp("first") / "run")
    return train(data, run, steps=4, seed=7, device="cpu", quiet=True)


def built(name: str) -> Method:
    task = build_task(PLAN)

    def build(architecture: str = "unet") -> nn.Module:
        return build_network(NetworkConfig(name=architecture), PLAN, task.channels)

    return METHODS[name](build(), task, MethodConfig(), 0.9, build)


def state(run: Path) -> dict[str, torch.Tensor]:
    return load_model(run / "model").state


def test_a_run_starts_with_the_weights_and_the_plan_of_the_other(data: Path, first: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    still = [part for setting in STILL for part in ("--set", setting)]
    result = command("train", data, run, "--init", first, "--steps", 1, "--device", "cpu", *still)
    assert result.returncode == 0, result.stderr
    said = " ".join(result.stdout.split())
    count = len(state(first))
    assert f"{count} of {count} tensors taken. Voxel size, patch, batch and network are those of its plan." in said
    for key, value in state(first).items():
        torch.testing.assert_close(state(run)[key], value, rtol=0, atol=1e-6)
    plan = Plan.read(run / "plan.json")
    for name in GEOMETRY:
        assert getattr(plan, name) == getattr(PLAN, name), name
    assert f"init: {first}" in (run / "config.yaml").read_text()
    record = json.loads((run / "provenance.json").read_text())["init"]
    assert record["weights_sha256"] == json.loads((first / "model" / "model.json").read_text())["weights_sha256"]
    again = train(data, tmp_path / "again", init=first / "model", steps=1, device="cpu", set=STILL, quiet=True)
    assert (again / "model" / "weights.safetensors").read_bytes() == (run / "model/weights.safetensors").read_bytes()


def test_heads_of_other_classes_start_fresh(first: Path, tmp_path: Path) -> None:
    other = scans(tmp_path / "other", classes=2)
    options = {"steps": 1, "device": "cpu", "set": STILL, "quiet": True}
    with_init = state(train(other, tmp_path / "with", init=first, **options))  # type: ignore[arg-type]
    plan = PLAN.model_copy(update={"classes": {"class 1": 1, "class 2": 2}})
    without = state(train(other, planned(tmp_path / "without", plan), **options))  # type: ignore[arg-type]
    heads = {key for key in with_init if key.startswith("decoder.heads")}
    assert heads
    for key, value in with_init.items():
        expected = without if key in heads else state(first)
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-6)


# A network of two stages answers at one resolution, which pyramid_consistency refuses.
@pytest.mark.parametrize("method", [name for name in METHODS if name != "pyramid_consistency"])
def test_network_and_average_start_equal(first: Path, method: str) -> None:
    learner = built(method)
    start_from(load_model(first / "model"), learner, PLAN)
    for key, value in learner.network.state_dict().items():
        assert torch.equal(value, state(first)[key])
        assert torch.equal(value, learner.average.state_dict()[key])


def test_a_run_that_was_stopped_goes_on_bitwise_equal_and_does_not_start_again(
    data: Path, first: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    shutil.copytree(first, start)
    options = {"steps": 12, "device": "cpu", "quiet": True, "set": ["checkpoint_seconds=0.0001"]}
    whole = train(data, tmp_path / "whole", init=start, **options)  # type: ignore[arg-type]
    stopped = Path(shutil.copytree(whole, tmp_path / "stopped"))
    shutil.rmtree(stopped / "model")
    saved = Checkpoints(stopped / "checkpoints").steps()
    assert saved[-1] == 12
    assert len(saved) > 1
    for file in (stopped / "checkpoints").glob(f"step-{12:09d}*"):
        file.unlink()
    shutil.rmtree(start)  # nothing of it is needed once there is a checkpoint
    train(data, stopped, resume=True, quiet=True)
    assert (stopped / "model/weights.safetensors").read_bytes() == (whole / "model/weights.safetensors").read_bytes()


def test_a_run_without_a_checkpoint_starts_once_more_from_the_same_weights(
    data: Path, first: Path, tmp_path: Path
) -> None:
    start = Path(shutil.copytree(first, tmp_path / "start"))
    whole = train(data, tmp_path / "whole", init=start, steps=3, device="cpu", quiet=True)
    stopped = Path(shutil.copytree(whole, tmp_path / "stopped"))
    shutil.rmtree(stopped / "model")
    shutil.rmtree(stopped / "checkpoints")
    train(data, stopped, resume=True, quiet=True)
    assert (stopped / "model/weights.safetensors").read_bytes() == (whole / "model/weights.safetensors").read_bytes()
    shutil.rmtree(stopped / "checkpoints")
    train(data, planned(tmp_path / "newer"), steps=5, device="cpu", quiet=True)
    shutil.copytree(tmp_path / "newer/model", start / "model", dirs_exist_ok=True)
    with pytest.raises(InputError, match=r"weights\.safetensors: SHA-256.*as when the run was started"):
        train(data, stopped, resume=True, quiet=True)


def test_another_start_is_refused_on_resume(data: Path, first: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run", init=first, steps=1, device="cpu", quiet=True)
    with pytest.raises(InputError, match=r"config\.yaml: init: found '.*model'; expected '.*run', as when"):
        train(data, run, init=first / "model", resume=True, quiet=True)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("plan.widths", {"widths": (4, 6)}),
        ("plan.strides", {"strides": ((1, 1, 1), (1, 2, 2))}),
        ("plan.channels", {"channels": tuple(ChannelPlan(name=n, normalisation="zscore") for n in "ab")}),
        ("plan.dims", {"dims": 2, "spacing": (1.0, 1.0), "patch": (16, 16), "strides": ((1, 1), (2, 2))}),
    ],
)
def test_weights_of_another_network_are_refused_and_nothing_is_left(
    data: Path, first: Path, tmp_path: Path, field: str, changes: dict[str, object]
) -> None:
    run = planned(tmp_path / "run", PLAN.model_copy(update=changes))
    with pytest.raises(InputError, match=rf"model\.json: {field}: found .*, as in the run to be trained\. ") as caught:
        train(data, run, init=first, steps=1, device="cpu", quiet=True)
    assert field in [problem.field for problem in caught.value.problems]
    assert [file.name for file in run.iterdir()] == ["plan.json"]


def test_a_cohort_of_another_kind_does_not_take_the_plan(first: Path, tmp_path: Path) -> None:
    root = scans(tmp_path / "ct")
    for file in list((root / "images").iterdir()):
        scan = nib.load(file)
        nib.save(nib.Nifti1Image(scan.get_fdata().astype(np.float32) * 10 - 1000, scan.affine), file)
    with pytest.raises(InputError) as caught:
        train(root, tmp_path / "run", init=first, steps=1, device="cpu", quiet=True)
    assert [problem.field for problem in caught.value.problems] == ["plan.widths"]
    assert not (tmp_path / "run").exists()


def test_what_is_no_model_is_refused_unopened(data: Path, first: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match="may be a pickle"):
        train(data, tmp_path / "run", init=tmp_path / "weights.pth", steps=1, quiet=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"model: found nothing"):
        train(data, tmp_path / "run", init=tmp_path / "no", steps=1, quiet=True)


def test_weights_of_which_nothing_fits_are_refused(first: Path) -> None:
    model = load_model(first / "model")
    model.state = {f"other.{key}": value for key, value in model.state.items()}
    with pytest.raises(InputError, match=r"tensors: found \d+ tensors, none of a name and shape"):
        start_from(model, built("supervised"), PLAN)
