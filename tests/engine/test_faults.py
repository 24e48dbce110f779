"""Faults during real training, through the real command: what was saved stays, and the run can go on as if nothing was.

``ended`` is a run that nothing disturbed; every disturbed run must end with the same bytes of weights.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from foveate.batches.sampler import Batch
from foveate.cohort.plan import ChannelPlan, Plan
from foveate.engine.checkpoint import Checkpoints
from foveate.engine.progress import TrainingProgress
from foveate.engine.signals import Stopped
from foveate.engine.train import train
from foveate.errors import FoveateError, InputError
from foveate.methods.mean_teacher import MeanTeacher
from foveate.tasks import Segmentation

STEPS = 30
PLAN = Plan(
    dims=3,
    spacing=(1.0, 1.0, 1.0),
    patch=(16, 16, 16),
    batch=4,
    channels=(ChannelPlan(name="MR", normalisation="zscore"),),
    classes={"ball": 1},
    widths=(4, 8),
    strides=((1, 1, 1), (2, 2, 2)),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An nnU-Net dataset of six volumes of 16^3 voxels, four of them labelled."""
    root = tmp_path_factory.mktemp("data") / "Dataset001_Ball"
    random = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for case in range(6):
        offsets = np.indices((16, 16, 16)) - random.uniform(6, 10, 3)[:, None, None, None]
        ball = ((offsets**2).sum(0) < 20).astype(np.uint8)
        scan = (100 * ball + random.normal(0, 10, ball.shape)).astype(np.float32)
        nib.save(nib.Nifti1Image(scan, np.eye(4)), root / "imagesTr" / f"case{case}_0000.nii.gz")
        if case < 4:
            nib.save(nib.Nifti1Image(ball, np.eye(4)), root / "labelsTr" / f"case{case}.nii.gz")
    describe(root, "ball")
    return root


def describe(root: Path, name: str) -> None:
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, name: 1},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return prepared_run(tmp_path / "run")


def prepared_run(folder: Path) -> Path:
    """A folder with a plan only: measuring one would make it depend on the machine's load."""
    folder.mkdir()
    PLAN.write(folder / "plan.json")
    return folder


def command(data: Path, run: Path, *more: str) -> list[str]:
    # Self-training is the method that leaves most in the run folder between two checkpoints.
    options = ["--steps", str(STEPS), "--method", "self_training", "--device", "cpu", "--quiet"]
    options += ["--set", "method.start=0.4", "--set", "checkpoint_seconds=0.001", *more]
    return [sys.executable, "-m", "foveate", "train", str(data), str(run), *options]


def start(data: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command(data, run, *more), stdout=pipe, stderr=pipe, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what was said on stderr, without a traceback."""
    _, said = process.communicate(timeout=200)
    assert "Traceback" not in said, said
    return process.returncode, said


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Until a checkpoint of ``step`` or later is on disk."""
    checkpoints = Checkpoints(run / "checkpoints")
    deadline = time.monotonic() + 120
    while not any(saved >= step for saved in checkpoints.steps()):
        assert process.poll() is None, f"it ended early: {process.communicate()[1]}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def weights(run: Path) -> bytes:
    return (run / "model" / "weights.safetensors").read_bytes()


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def ended(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = prepared_run(tmp_path_factory.mktemp("ended") / "run")
    code, said = finish(start(data, run))
    assert code == 0, said
    return run


def check_log(run: Path) -> None:
    """Every step is logged once, in order."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records if "loss" in record]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS


def test_killed_runs_go_on_bitwise_equal(data: Path, run: Path, ended: Path) -> None:
    for step, rounds in (
        (3, 0),
        (13, 1),
        (24, 2),
    ):  # before the unlabelled scans enter, after each time they are labelled
        process = start(data, run, "--resume")
        wait_for_step(process, run, step)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (run / "model").exists()
        assert len(list((run / "pseudo").glob("round-*"))) >= rounds
    newest = sorted((run / "checkpoints").glob("step-*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-200])
    code, said = finish(start(data, run, "--resume"))
    assert code == 0, said
    assert "Falling back to step-" in said
    assert weights(run) == weights(ended)
    check_log(run)
    for folder in (run, ended):
        records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert [record["round"] for record in records if "round" in record] == [1, 2]
        assert not (folder / "pseudo").exists()  # nobody needs them any more


def test_sigterm_saves_and_the_run_goes_on_bitwise_equal(data: Path, run: Path, ended: Path) -> None:
    never = ("--set", "checkpoint_seconds=1000")
    process = start(data, run, *never)
    log = run / "log.jsonl"
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == 143
    step = Checkpoints(run / "checkpoints").steps()[-1]
    assert f"Stopped by SIGTERM at step {step}; everything is saved. --resume" in said
    code, said = finish(start(data, run, "--resume", *never))
    assert code == 0, said
    assert weights(run) == weights(ended)
    check_log(run)


def test_a_signal_while_scans_are_prepared_again_names_the_step_that_is_saved(
    data: Path, ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose data or cache was moved has nothing lost, and must not look as if it had."""
    run = Path(shutil.copytree(ended, tmp_path / "run"))

    def terminate(self: TrainingProgress, what: str, done: int, cases: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingProgress, "counting", terminate)
    with pytest.raises(Stopped, match=f"at step {STEPS};"):
        train(data, run, resume=True, quiet=True, set=[f"cache={tmp_path / 'other'}"])


def test_a_second_process_is_refused(data: Path, run: Path, ended: Path) -> None:
    process = start(data, run)
    wait_for_step(process, run, 1)
    process.send_signal(signal.SIGSTOP)
    before = contents(run)
    code, said = finish(start(data, run, "--resume"))
    assert code == 1
    assert f"lock: found process {process.pid} on" in said
    assert contents(run) == before
    process.send_signal(signal.SIGCONT)
    code, said = finish(process)
    assert code == 0, said
    assert weights(run) == weights(ended)


def test_a_full_disk_stops_with_the_last_checkpoint_intact(data: Path, run: Path, ended: Path) -> None:
    process = start(data, run)
    wait_for_step(process, run, 5)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    kept = Checkpoints(run / "checkpoints").steps()
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
    script = [sys.executable, "-c", limit + "runpy.run_module('foveate', run_name='__main__')"]
    full = subprocess.run([*script, *command(data, run, "--resume")[3:]], capture_output=True, text=True)
    assert full.returncode == 1
    assert "Traceback" not in full.stderr, full.stderr
    assert "file size limit" in full.stderr
    assert f"step-{kept[-1]:09d}.safetensors, is intact" in full.stderr
    assert Checkpoints(run / "checkpoints").steps() == kept
    code, said = finish(start(data, run, "--resume"))
    assert code == 0, said
    assert weights(run) == weights(ended)


# What a continuation is refused for; nothing of the run may change by the attempt


@pytest.fixture
def finished(ended: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ended, tmp_path / "finished"))


@pytest.fixture
def copied(data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data, tmp_path / "copied"))


def refused(data: Path, run: Path, **changes: object) -> InputError:
    before = contents(run)
    arguments: dict[str, object] = {"steps": STEPS, "device": "cpu", "resume": True, "quiet": True, **changes}
    with pytest.raises(InputError) as caught:
        train(data, run, **arguments)  # type: ignore[arg-type]
    assert contents(run) == before
    return caught.value


def test_a_finished_run_is_not_overwritten(data: Path, finished: Path) -> None:
    assert "--resume" in str(refused(data, finished, resume=False))


def test_other_settings_are_refused_by_key(data: Path, finished: Path) -> None:
    error = refused(data, finished, steps=31, method="mean_teacher", seed=1, set=["optimiser.clip=1"])
    assert {problem.field for problem in error.problems} == {"steps", "method.name", "seed", "optimiser.clip"}


def test_settings_that_are_not_given_again_come_from_the_run(data: Path, finished: Path, ended: Path) -> None:
    train(data, finished, resume=True, quiet=True)
    assert weights(finished) == weights(ended)


def test_an_edited_plan_is_refused(data: Path, finished: Path) -> None:
    PLAN.model_copy(update={"widths": (4, 6)}).write(finished / "plan.json")
    assert "plan.json: widths: found [4, 6]; expected [4, 8]" in str(refused(data, finished))


def test_other_classes_are_refused(copied: Path, finished: Path) -> None:
    describe(copied, "cube")
    error = refused(copied, finished)
    assert {problem.field for problem in error.problems} == {"classes.ball", "classes.cube"}


def change_image(data: Path) -> str:
    path = data / "imagesTr" / "case1_0000.nii.gz"
    scan = nib.load(path)
    nib.save(nib.Nifti1Image(scan.get_fdata().astype(np.float32) + 1, scan.affine), path)
    return "1 case changed: case1 (image)"


def remove_case(data: Path) -> str:
    (data / "imagesTr" / "case5_0000.nii.gz").unlink()
    return "1 case removed: case5"


def add_case(data: Path) -> str:
    noise = np.random.default_rng(9).normal(0, 10, (16, 16, 16)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), data / "imagesTr" / "case7_0000.nii.gz")
    return "1 case added: case7"


def add_label(data: Path) -> str:
    shutil.copy(data / "labelsTr" / "case0.nii.gz", data / "labelsTr" / "case4.nii.gz")
    return "1 case changed: case4 (label)"


def share_a_patient(data: Path) -> str:
    (data / "patients.csv").write_text("case,patient\ncase0,Ann\ncase1,Ann\n")
    return "1 case changed: case1 (patient)"


@pytest.mark.parametrize("change", [change_image, remove_case, add_case, add_label, share_a_patient])
def test_a_changed_dataset_is_refused_by_case(copied: Path, finished: Path, change: Callable[[Path], str]) -> None:
    said = change(copied)
    found = str(refused(copied, finished))
    assert said in found
    assert ("--labelled" in found) == (change is add_label)


def test_a_continuation_without_the_list_of_labels_is_told_of_it(data: Path, tmp_path: Path) -> None:
    """No file has changed: to put any back is no advice."""
    run, cases = prepared_run(tmp_path / "run"), tmp_path / "cases.txt"
    cases.write_text("case0\ncase1\n")
    train(data, run, labelled=cases, steps=2, device="cpu", quiet=True)
    assert "Give --labelled as when the run was started" in str(refused(data, run, steps=2))
    train(data, run, labelled=cases, resume=True, quiet=True)
    cases.write_text("case0\ncase1\ncase2\n")
    assert "Give --labelled as when the run was started" in str(refused(data, run, steps=2, labelled=cases))


# Numbers and memory that run out


def is_finite(run: Path) -> bool:
    found = Checkpoints(run / "checkpoints").latest()
    assert found is not None
    return all(bool(v.isfinite().all()) for v in found[1]["method"].values() if v.is_floating_point())


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_numbers_that_are_not_finite_stop_and_name_the_batch(
    data: Path, run: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    honest, calls = Segmentation.loss, []

    def faulty(self: Segmentation, *args: object) -> dict[str, Tensor]:
        losses = honest(self, *args)  # type: ignore[arg-type]
        calls.append(1)
        if len(calls) > 5:
            name = next(iter(losses))
            # The root of zero is zero; its gradient times zero is not a number.
            zero = torch.sqrt(losses[name] * 0)
            losses[name] = losses[name] + (zero if where == "gradient" else float("nan"))
        return losses

    monkeypatch.setattr(Segmentation, "loss", faulty)
    settings = ["checkpoint_seconds=0.001", "method=supervised"]
    with pytest.raises(FoveateError) as caught:
        train(data, run, steps=STEPS, device="cpu", quiet=True, set=settings)
    message = str(caught.value)
    assert "not finite" in message
    assert "case" in message.split("Cases of this batch:")[1]
    assert "last good checkpoint" in message
    assert Checkpoints(run / "checkpoints").steps()[-1] == 5
    assert is_finite(run)
    monkeypatch.undo()
    train(data, run, resume=True, quiet=True)
    assert is_finite(run)


LITTLE_MEMORY = """
import resource, runpy
import foveate.engine.train
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
runpy.run_module("foveate", run_name="__main__")
"""


def test_out_of_memory_says_what_fits(data: Path, run: Path) -> None:
    PLAN.model_copy(update={"batch": 4096}).write(run / "plan.json")
    if not sys.platform.startswith("linux"):
        pytest.skip("needs a limit on memory")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    arguments = [sys.executable, "-c", LITTLE_MEMORY, *command(data, run)[3:]]
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr, result.stderr
    assert "out of memory" in result.stderr
    assert "batch 4096" in result.stderr
    assert "fits: batch" in result.stderr


def test_what_fits_is_tried_by_steps_of_the_method_itself(
    data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network alone fits with any batch; the method with one unlabelled image: known before the first step."""
    few = tmp_path / "few.txt"
    few.write_text("case0\n")
    PLAN.model_copy(update={"batch": 8}).write(run / "plan.json")
    losses = MeanTeacher.losses

    def hungry(self: MeanTeacher, batch: Batch, weight: float) -> dict[str, Tensor]:
        if len(batch.weak) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return losses(self, batch, weight)

    monkeypatch.setattr(MeanTeacher, "losses", hungry)
    with pytest.raises(FoveateError, match=r"with plan\.json batch 8.* fits: batch 2,"):
        train(data, run, steps=4, method="mean_teacher", set=["method.start=0.7"], labelled=few, quiet=True)
    assert not (run / "log.jsonl").exists()


def test_a_start_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        train(tmp_path / "empty", tmp_path / "run", steps=1, quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("option", "near"), [("method", "supervised"), ("network", "unet")])
def test_an_unknown_name_is_refused_with_the_nearest(data: Path, tmp_path: Path, option: str, near: str) -> None:
    with pytest.raises(InputError, match=near):
        train(data, tmp_path / "run", steps=1, quiet=True, **{option: near[:-1]})  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
