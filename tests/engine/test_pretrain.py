"""``--pretrain``: one command does what two did, within one bound, and goes on wherever it was stopped."""

import shutil
import time
from pathlib import Path

import pytest
from test_warm_start import planned, scans, state

from foveate.config import load_config
from foveate.engine.checkpoint import Checkpoints
from foveate.engine.settle import pretraining
from foveate.engine.train import CLOSING, schedule_of, train
from foveate.errors import InputError
from foveate.methods import PRETRAINING
from foveate.report.run import read_log

WEIGHTS = "model/weights.safetensors"
OPTIONS = {"steps": 6, "device": "cpu", "quiet": True, "set": ["checkpoint_seconds=0.0001"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scans(tmp_path_factory.mktemp("data") / "scans")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = planned(tmp_path_factory.mktemp("whole") / "run")
    return train(data, run, pretrain="dbn", **OPTIONS)  # type: ignore[arg-type]


def test_the_names_are_those_of_the_methods_that_learn_no_labels() -> None:
    from foveate.methods import METHODS

    assert set(PRETRAINING.values()) == {name for name, method in METHODS.items() if not method.learns_labels}


@pytest.mark.parametrize("name", PRETRAINING)
def test_one_command_does_what_two_do_and_the_bound_holds_for_both(data: Path, tmp_path: Path, name: str) -> None:
    options = {"device": "cpu", "quiet": True}
    run = train(data, planned(tmp_path / "run"), pretrain=name, steps=6, set=["pretrain.share=0.5"], **options)  # type: ignore[arg-type]
    first = train(data, planned(tmp_path / "first"), method=PRETRAINING[name], steps=3, **options)  # type: ignore[arg-type]
    second = train(data, planned(tmp_path / "second"), init=first, steps=3, **options)  # type: ignore[arg-type]
    assert (run / "pretrained" / WEIGHTS).read_bytes() == (first / WEIGHTS).read_bytes()
    assert (run / WEIGHTS).read_bytes() == (second / WEIGHTS).read_bytes()
    assert read_log(run)[-1]["step"] + read_log(run / "pretrained")[-1]["step"] == 6


def test_what_cannot_be_trained_is_refused_before_pre_training_and_leaves_no_run(data: Path, tmp_path: Path) -> None:
    options = {"device": "cpu", "quiet": True, "steps": 6}
    for wrong, field in (
        ({"pretrain": "dbn", "method": "pyramid_consistency"}, "network.deep_supervision"),
        ({"set": ["validation=99"]}, "validation"),
    ):
        run = planned(tmp_path / field)
        with pytest.raises(InputError, match=field):
            train(data, run, **options, **wrong)  # type: ignore[arg-type]
        assert [file.name for file in run.iterdir()] == ["plan.json"]
        train(data, run, **options)  # type: ignore[arg-type]  # corrected, into the same folder


def test_it_says_what_was_taken(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(data, planned(tmp_path / "run"), pretrain="dbn", steps=2, device="cpu")
    said = " ".join(capsys.readouterr().out.split())
    assert "Pre-training: deep_belief." in said
    taken = sum(key.startswith("encoder.") for key in state(tmp_path / "run"))
    assert f"{taken} of {len(state(tmp_path / 'run'))} tensors taken; fresh: decoder." in said


def drop_last(run: Path) -> None:
    """Leave ``run`` as it was one checkpoint ago, and without its model."""
    shutil.rmtree(run / "model")
    steps = Checkpoints(run / "checkpoints").steps()
    assert len(steps) > 1
    (run / "checkpoints" / f"step-{steps[-1]:09d}.safetensors").unlink()


def in_training(run: Path) -> None:
    drop_last(run)
    shutil.rmtree(run / "pretrained")  # nothing of it is needed once there is a checkpoint


def between_the_two(run: Path) -> None:
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints")


def in_pretraining(run: Path) -> None:
    between_the_two(run)
    drop_last(run / "pretrained")


def before_pretraining(run: Path) -> None:
    between_the_two(run)
    shutil.rmtree(run / "pretrained")


@pytest.mark.parametrize("stopped", [in_training, between_the_two, in_pretraining, before_pretraining])
def test_a_run_that_was_stopped_goes_on_bitwise_equal(data: Path, whole: Path, tmp_path: Path, stopped) -> None:  # type: ignore[no-untyped-def]
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    stopped(run)
    before = {file: file.stat().st_mtime_ns for file in (run / "pretrained").glob("model/*")}
    train(data, run, resume=True, quiet=True)
    assert (run / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert all(file.stat().st_mtime_ns == written for file, written in before.items())  # not made again
    assert [record["step"] for record in read_log(run)] == [record["step"] for record in read_log(whole)]


def test_minutes_are_divided_and_preparation_counts_once() -> None:
    settings = load_config(minutes=10, pretrain="dbn")
    first = pretraining(settings, Path("cache"))
    started = time.monotonic() - 30  # of checking and preparing
    a, b = schedule_of(first, started), schedule_of(settings, started, first)
    total = 600 * (1 - CLOSING)
    assert a.seconds == pytest.approx(0.3 * total)
    assert a.elapsed == pytest.approx(30, abs=1)
    assert b.seconds == pytest.approx(0.7 * total)
    assert b.elapsed == pytest.approx(0, abs=1)
    late = schedule_of(settings, time.monotonic() - 0.3 * total - 20, first)  # pre-training took 20 s too much
    assert late.elapsed == pytest.approx(20, abs=1)
    assert first.method.name == "deep_belief"
    assert first.pretrain.name is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrain": "rbm"}, r"pretrain\.name: found rbm; expected one of masked_autoencoder, dbn"),
        ({"pretrain": "dbn", "init": "run"}, r"pretrain: found dbn, and init run; expected weights of one origin"),
        ({"pretrain": "dbn", "method": "masked_autoencoder"}, "found dbn, before masked_autoencoder"),
        ({"pretrain": "dbn", "steps": 1}, r"steps: found 1; expected at least 2"),
        ({"pretrain": "dbn", "set": ["pretrain.share=1"]}, r"pretrain\.share"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_left(
    data: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(data, tmp_path / "run", quiet=True, **({"steps": 4} | options))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_the_gap_of_the_free_energy_is_logged_for_every_layer(data: Path, tmp_path: Path) -> None:
    options = {"steps": 20, "device": "cpu", "quiet": True, "set": ["validation=1"]}
    run = train(data, planned(tmp_path / "run"), method="deep_belief", **options)  # type: ignore[arg-type]
    found = [record for record in read_log(run) if "free_energy_gap" in record]
    assert len(found) == 10
    assert {record["layer"] for record in found} == {1, 2}
    for record in found:
        gap = record["free_energy_held_back"] - record["free_energy"]
        assert record["free_energy_gap"] == pytest.approx(gap)
    page = (run / "report.html").read_text()
    assert "free-energy gap" in page
    assert "3 scans teach as images" in page
