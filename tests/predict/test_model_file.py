"""A model comes back as it was saved, and nothing but a whole model is accepted."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import foveate
from foveate.cohort.plan import ChannelPlan, Plan
from foveate.config import NetworkConfig
from foveate.errors import InputError
from foveate.networks import build_network
from foveate.predict.model_file import load_model, save_model
from foveate.predict.predictor import Predictor
from foveate.tasks import build_task


@pytest.fixture
def plan():
    return Plan(
        dims=3,
        spacing=(1.0, 1.0, 1.0),
        patch=(16, 16, 16),
        batch=2,
        channels=(ChannelPlan(name="MR", normalisation="zscore"),),
        classes={"one": 1, "two": 2},
        widths=(4, 8),
        strides=((1, 1, 1), (2, 2, 2)),
    )


@pytest.fixture
def saved(plan, tmp_path):
    torch.manual_seed(0)
    network = build_network(NetworkConfig(), plan, 3)
    save_model(
        tmp_path / "run" / "model",
        NetworkConfig(),
        {"name": "segmentation"},
        plan,
        network.state_dict(),
        {"note": "x"},
    )
    return tmp_path / "run", network


def test_model_comes_back_and_predicts_the_same(saved, plan):
    run, network = saved
    array = np.random.default_rng(0).normal(size=(20, 18, 22))
    expected = Predictor(network, build_task(plan), plan).predict(array, spacing=(1, 1, 1))
    for place in (run, run / "model", run / "model" / "model.json", str(run)):
        found = foveate.load(place, device="cpu").predict(array, spacing=(1, 1, 1))
        np.testing.assert_array_equal(found, expected)
    model = load_model(run / "model")
    assert model.plan == plan
    assert model.extra == {"note": "x"}
    assert model.task == {"name": "segmentation"}
    assert sorted(file.name for file in (run / "model").iterdir()) == ["model.json", "weights.safetensors"]


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_pickles_are_refused_and_nothing_runs(saved, tmp_path):
    run, _ = saved
    canary = tmp_path / "ran"
    for name in ("weights.pt", "model.pth", "model.pkl"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Bomb(canary)))
        with pytest.raises(InputError, match="may be a pickle"):
            foveate.load(path)
    with pytest.raises(InputError, match=r"model\.pkl, which may be a pickle"):
        foveate.load(tmp_path)
    weights = run / "model" / "weights.safetensors"
    weights.write_bytes(pickle.dumps(Bomb(canary)))
    description = run / "model" / "model.json"
    with pytest.raises(InputError, match="SHA-256"):
        foveate.load(run)
    # Even a description that vouches for it does not make it run.
    data = json.loads(description.read_text())
    data["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    description.write_text(json.dumps(data))
    with pytest.raises(InputError, match="content: found"):
        foveate.load(run)
    assert not canary.exists()


def damage(run, name):
    model = run / "model"
    description, weights = model / "model.json", model / "weights.safetensors"
    data = json.loads(description.read_text())
    if name == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif name == "flipped bit":
        content = bytearray(weights.read_bytes())
        content[-5] ^= 1
        weights.write_bytes(content)
    elif name == "no weights":
        weights.unlink()
    elif name == "no description":
        description.unlink()
    elif name == "half a description":
        description.write_text(description.read_text()[:200])
    elif name == "not an object":
        description.write_text("[1]")
    elif name == "newer format":
        description.write_text(json.dumps({**data, "format": 99}))
    elif name == "unknown field":
        description.write_text(json.dumps({**data, "surprise": 1}))
    elif "widths" in name:  # those beyond memory are of terabytes
        data["plan"]["widths"] = [6, 8] if name == "other widths" else [400_000, 600_000]
        description.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated weights", "weights.safetensors: SHA-256"),
        ("flipped bit", "weights.safetensors: SHA-256"),
        ("no weights", "weights.safetensors: file: found No such file"),
        ("no description", "model.json: file: found No such file"),
        ("half a description", "model.json: JSON"),
        ("not an object", "model.json: document"),
        ("newer format", "model.json: format: found 99; expected 1"),
        ("unknown field", "model.json: surprise"),
        ("other widths", r"weights \S+: found .*; expected"),
        ("widths beyond memory", r"weights \S+: found .*; expected"),
    ],
)
def test_damaged_models_are_refused_by_name(saved, name, message):
    damage(saved[0], name)
    with pytest.raises(InputError, match=message):
        foveate.load(saved[0])


def test_folders_without_a_model_say_what_they_are(tmp_path):
    with pytest.raises(InputError, match="model: found nothing"):
        foveate.load(tmp_path / "absent")
    with pytest.raises(InputError, match="a folder without a model"):
        foveate.load(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(InputError, match="Training has not finished"):
        foveate.load(tmp_path)


def test_weights_that_are_not_finite_are_refused(saved, plan):
    run, network = saved
    state = network.state_dict()
    next(iter(state.values())).view(-1)[0] = float("nan")
    save_model(run / "model", NetworkConfig(), {"name": "segmentation"}, plan, state)
    with pytest.raises(InputError, match="not finite"):
        foveate.load(run)


def test_full_disk_keeps_the_model_that_was_there(saved, plan):
    run, _ = saved
    before = {file.name: file.read_bytes() for file in (run / "model").iterdir()}
    script = textwrap.dedent(f"""
        import resource
        from pathlib import Path
        import torch
        from foveate.errors import FoveateError
        from foveate.predict.model_file import load_model, save_model
        model = load_model(Path({str(run / "model")!r}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
        try:
            save_model(model.folder, model.network, model.task, model.plan, {{"big": torch.zeros(100_000)}})
        except FoveateError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "weights.safetensors" in done.stdout
    assert "Free some space" in done.stdout
    assert {file.name: file.read_bytes() for file in Path(run / "model").iterdir()} == before
