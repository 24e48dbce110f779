"""The run folder: never over what was there, one process at a time, and the same run when it is continued."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from foveate.cohort.plan import ChannelPlan, Plan
from foveate.config import load_config
from foveate.engine.run import RunFolder, stop_signals
from foveate.errors import InputError
from foveate.files import DiskFull

PLAN = Plan(
    dims=3,
    spacing=(1.0, 1.0, 1.0),
    patch=(16, 16, 16),
    batch=2,
    channels=(ChannelPlan(name="MR", normalisation="zscore"),),
    classes={"anterior": 1, "posterior": 2},
    widths=(8, 16),
    strides=((1, 1, 1), (2, 2, 2)),
)
CONFIG = load_config(steps=10, method="supervised", seed=3)
DATA = {"a": {"image": "11", "label": "22"}, "b": {"image": "33", "label": None}}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that was started, saved at steps 4 and 8, logged to step 9, and was killed."""
    with RunFolder(tmp_path / "runs" / "run") as run:
        run.begin(CONFIG, PLAN, DATA, labelled=1)
        for step in range(1, 10):
            run.log({"step": step, "loss": 1 / step})
            if step % 4 == 0:
                run.save(step, {"weights": torch.full((3,), float(step))})
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_can_be_read_back(run: RunFolder) -> None:
    assert run.config() == CONFIG
    assert run.plan() == PLAN
    record = run.provenance()
    assert record["data"] == DATA
    assert record["seed"] == 3
    assert record["labelled"] == 1
    assert record["versions"]["torch"] == torch.__version__
    assert {"python", "foveate", "numpy", "platform", "processor"} <= record["versions"].keys()
    assert str(Path.home()) not in json.dumps(record["versions"])
    assert not list(run.path.glob(".*"))


def test_a_run_is_not_overwritten_without_resume(run: RunFolder) -> None:
    before = contents(run.path)
    with (
        pytest.raises(InputError, match=r"run folder: found a run that is already there.*--resume"),
        RunFolder(run.path),
    ):
        pass
    assert contents(run.path) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_stays_untouched(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "config.yaml").write_text("mine: too")
    before = contents(tmp_path)
    with (
        pytest.raises(InputError, match=r"config\.yaml, thesis\.tex.*nothing here is overwritten"),
        RunFolder(tmp_path, resume),
    ):
        pass
    assert contents(tmp_path) == before
    with pytest.raises(InputError, match="a file"), RunFolder(tmp_path / "thesis.tex", resume):
        pass
    assert contents(tmp_path) == before


@pytest.mark.parametrize("given", [None, ".DS_Store", "plan.json"])
def test_resume_of_an_absent_or_empty_folder_starts(tmp_path: Path, given: str | None) -> None:
    folder = tmp_path / "run"
    if given:
        folder.mkdir()
        (folder / given).write_text("{}")
    with RunFolder(folder, resume=True) as run:
        assert not run.resumed
        assert run.restore() is None
        if given:
            assert (folder / given).read_text() == "{}"


def test_a_start_that_was_killed_before_it_was_a_run_can_be_repeated(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.begin(CONFIG, PLAN, DATA)
        run.log({"step": 1})
    (tmp_path / "provenance.json").unlink()
    (tmp_path / ".provenance.json.123.tmp").write_text("half")
    with RunFolder(tmp_path) as run:
        assert not run.resumed
        run.begin(CONFIG, PLAN, DATA)
    assert not (tmp_path / "log.jsonl").exists()
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_log_is_cut_back_to_the_checkpoint(run: RunFolder) -> None:
    with (run.path / "log.jsonl").open("a") as log:
        log.write('{"step": 10, "lo')  # killed here
    with RunFolder(run.path, resume=True) as again:
        assert again.resumed
        step, tree = again.restore() or (None, None)
        assert step == 8
        assert torch.equal(tree["weights"], torch.full((3,), 8.0))
        again.log({"event": "resumed"})
        again.log({"step": 9, "loss": float("nan"), "rate": torch.tensor(0.5)})
    records = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "step" in record] == list(range(1, 10))
    assert records[-1] == {"step": 9, "loss": None, "rate": 0.5}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_log_that_cannot_grow_is_said(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as run:
        (run.path / "log.jsonl").symlink_to("/dev/full")
        with pytest.raises(DiskFull, match=r"log\.jsonl: the disk is full"):
            run.log({"step": 1})


def test_a_run_without_a_checkpoint_starts_its_log_anew(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.begin(CONFIG, PLAN, DATA)
        run.log({"step": 1})
    with RunFolder(tmp_path, resume=True) as run:
        assert run.resumed
        assert run.restore() is None
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_the_same_run_may_go_on(run: RunFolder) -> None:
    with RunFolder(run.path, resume=True) as again:
        free = load_config(None, ["device=gpu:0", "checkpoint_seconds=5", "cache=/elsewhere"], base=CONFIG)
        assert again.resumed
        again.verify(free, PLAN, PLAN.classes, DATA)


def test_every_difference_is_listed_by_key(run: RunFolder) -> None:
    config = load_config(None, ["optimiser.learning_rate=0.1", "network.attention.skip=gate"], base=CONFIG, steps=20)
    plan = PLAN.model_copy(update={"patch": (8, 8, 8)})
    with RunFolder(run.path, resume=True) as again, pytest.raises(InputError) as caught:
        again.verify(config, plan, {"anterior": 1, "tumour": 2})
    found = {problem.field: (problem.found, problem.expected) for problem in caught.value.problems}
    started = ", as when the run was started"
    assert found == {
        "steps": ("20", "10" + started),
        "network.attention.skip": ("'gate'", "'none'" + started),
        "optimiser.learning_rate": ("0.1", "0.002" + started),
        "patch": ("[8, 8, 8]", "[16, 16, 16]" + started),
        "classes.posterior": ("nothing", "2" + started),
        "classes.tumour": ("2", "nothing" + started),
    }


def test_editing_the_files_of_a_run_is_noticed(run: RunFolder) -> None:
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("seed: 3", "seed: 4"))
    with (
        RunFolder(run.path, resume=True) as again,
        pytest.raises(InputError, match=r"config\.yaml: seed: found 4; expected 3"),
    ):
        again.verify(again.config(), again.plan())


def test_a_changed_dataset_is_refused_by_case(run: RunFolder) -> None:
    now = {"a": {"image": "99", "label": None}, **{f"new{i:02}": {"image": "5", "label": None} for i in range(11)}}
    with RunFolder(run.path, resume=True) as again, pytest.raises(InputError) as caught:
        again.verify(data=now)
    text = str(caught.value)
    assert "11 cases added: new00, new01, new02, new03, new04, new05, new06, new07 and 3 more" in text
    assert "1 case removed: b" in text
    assert "1 case changed: a (image, label)" in text


def test_a_lost_provenance_is_refused(run: RunFolder) -> None:
    (run.path / "provenance.json").write_text("[1, 2")
    with RunFolder(run.path, resume=True) as again, pytest.raises(InputError, match=r"provenance\.json: file"):
        again.verify(CONFIG)


# A second process

HOLDER = """
import sys, time
from foveate.engine.run import RunFolder
with RunFolder(sys.argv[1], resume=True):
    print("held", flush=True)
    time.sleep(60)
"""
FORKER = """
import os, sys, time
from foveate.engine.run import RunFolder
with RunFolder(sys.argv[1], resume=True):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(HOLDER, tmp_path / "run")
    assert first_line(process) == "held"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_with_the_pid(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    for resume in (False, True):
        with (
            pytest.raises(InputError, match=rf"lock: found process {holder.pid} on "),
            RunFolder(tmp_path / "run", resume),
        ):
            pass
    assert f"process {holder.pid}" in (tmp_path / "run" / "lock").read_text()


def test_the_lock_of_a_killed_process_is_no_obstacle(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert str(holder.pid) in (tmp_path / "run" / "lock").read_text()
    with RunFolder(tmp_path / "run") as run:
        run.begin(CONFIG, PLAN, DATA)
        assert f"process {os.getpid()} on" in (run.path / "lock").read_text()
    assert (tmp_path / "run" / "lock").read_text() == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_that_survives_does_not_keep_the_lock(tmp_path: Path) -> None:
    process = start(FORKER, tmp_path / "run")
    child = int(first_line(process))
    try:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(child, 0)  # the worker is alive
        with RunFolder(tmp_path / "run") as folder:
            assert str(os.getpid()) in (folder.path / "lock").read_text()
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "run"):
        _ = 1 / 0
    with RunFolder(tmp_path / "run"), pytest.raises(InputError, match="lock"), RunFolder(tmp_path / "run"):
        pass


@pytest.mark.parametrize("given", [None, "plan.json"])
def test_a_start_that_is_refused_leaves_nothing_behind(tmp_path: Path, given: str | None) -> None:
    folder = tmp_path / "run"
    if given:
        folder.mkdir()
        (folder / given).write_text("{}")
    with pytest.raises(ZeroDivisionError), RunFolder(folder):
        _ = 1 / 0  # such as a dataset that cannot be trained on
    assert [path.name for path in tmp_path.rglob("*")] == (["run", given] if given else [])


def test_a_start_that_failed_half_way_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise DiskFull("the disk is full")

    monkeypatch.setattr(RunFolder, "write_provenance", full)
    with RunFolder(tmp_path / "run") as run, pytest.raises(DiskFull):
        run.begin(CONFIG, PLAN, DATA)
    monkeypatch.undo()
    with RunFolder(tmp_path / "run") as run:
        run.begin(CONFIG, PLAN, DATA)


# Signals

LOOP = """
import sys, time
from foveate.engine.run import stop_signals
from foveate.errors import FoveateError
with stop_signals() as stop:
    print("looping", flush=True)
    step = 0
    while not stop.requested or sys.argv[1] == "stubborn":
        if stop.requested:
            print("again", flush=True)
        step += 1
        time.sleep(0.01)
    error = stop.stopped(step)
print(error, flush=True)
sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_stops_the_loop_in_its_own_time(number: signal.Signals, code: int) -> None:
    process = start(LOOP, "willing")
    assert first_line(process) == "looping"
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == code
    assert out.startswith(f"Stopped by {number.name} at step ")
    assert "--resume" in out


def test_a_second_signal_ends_a_stubborn_loop() -> None:
    process = start(LOOP, "stubborn")
    assert first_line(process) == "looping"
    process.send_signal(signal.SIGTERM)
    assert first_line(process) == "again"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


def test_a_training_by_nohup_outlives_its_terminal() -> None:
    process = start("import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + LOOP, "willing")
    assert first_line(process) == "looping"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert out.startswith("Stopped by SIGTERM")


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 5
        while not stop.requested and time.monotonic() < deadline:
            time.sleep(0.001)
        assert stop.requested
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_outside_the_main_thread_nothing_breaks() -> None:
    seen = []

    def work() -> None:
        with stop_signals() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
