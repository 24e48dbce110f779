"""Every run is done once, by whichever process comes first; one that fails does not keep the others."""

import subprocess
import sys
from pathlib import Path

import pytest
from made import row

from foveate.bench.rows import ALL, append_row, read_rows, run_name
from foveate.bench.runs import Run, claim, left_over, list_runs, work_off
from foveate.bench.table import Setting
from foveate.errors import FoveateError

SETTING = Setting("test", 15.0, 2, "cpu")


def runs(seeds: int = 2) -> list[Run]:
    return list_runs(["supervised", "mean_teacher"], [8, 4], True, seeds, SETTING)


def done(run: Run) -> dict:
    return row(run.method, run.labels, run.seed) | {"dice": 0.8}


def test_runs_come_seed_by_seed_and_only_those_without_a_row() -> None:
    names = [(run.method, run.labels) for run in runs(1)]
    assert names == [
        ("supervised", "4"),
        ("mean_teacher", "4"),
        ("supervised", "8"),
        ("mean_teacher", "8"),
        ("supervised", ALL),
    ]
    assert [(run.method, run.labels) for run in runs(2)] == names * 2
    there = [row("supervised", "4", 0), row("mean_teacher", "8", 1), row("supervised", ALL, 0, minutes="5")]
    left = left_over(runs(2), there)
    assert len(left) == 8
    assert runs(2)[0] not in left
    assert runs(2)[8] not in left
    assert runs(2)[4] in left, "another length is another run"


# A run that takes a moment and says that it was done.
WORKER = """
import sys, time
from pathlib import Path
from foveate.bench.runs import list_runs, work_off
from foveate.bench.table import Setting
from made import row

def execute(run):
    with open(sys.argv[2], "a") as file:
        file.write(run.name + "\\n")
    time.sleep(0.05)
    return row(run.method, run.labels, run.seed) | {"dice": 0.8}

runs = list_runs(["supervised", "mean_teacher"], [4, 8], True, 4, Setting("test", 15.0, 2, "cpu"))
while runs:
    work_off(runs, Path(sys.argv[1]), execute, print)
    from foveate.bench.rows import read_rows
    from foveate.bench.runs import left_over
    runs = left_over(runs, read_rows(Path(sys.argv[1])))
"""


def test_two_processes_share_the_runs_and_do_none_twice(tmp_path: Path) -> None:
    folders = [str(folder) for folder in Path(__file__).resolve().parents[:2]]
    script = f"import sys; sys.path[:0] = {folders!r}\n{WORKER}"
    results, log = tmp_path / "toy.csv", tmp_path / "log"
    workers = [
        subprocess.Popen([sys.executable, "-c", script, results, log], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for worker in workers:
        _, err = worker.communicate()
        assert worker.returncode == 0, err
    wanted = sorted(run.name for run in runs(4))
    assert sorted(log.read_text().split()) == wanted
    assert sorted(map(run_name, read_rows(results))) == wanted
    assert not list(tmp_path.glob(".*"))


def test_a_run_that_another_process_does_is_left_to_it(tmp_path: Path) -> None:
    results, run = tmp_path / "toy.csv", runs()[0]
    with claim(run, results) as first, claim(run, results) as second:
        assert (first, second) == (True, False)
        work_off([run], results, done, print)
        assert read_rows(results) == []
    work_off([run], results, done, print)
    with claim(run, results) as again:
        assert not again, "it has its row"


def test_a_run_that_fails_is_told_and_the_others_are_done(tmp_path: Path) -> None:
    def execute(run: Run) -> dict:
        if run.method == "mean_teacher":
            raise FoveateError("the loss is not finite")
        return done(run)

    told: list[str] = []
    failed = work_off(runs(1), tmp_path / "toy.csv", execute, told.append)
    assert len(failed) == 2
    assert "not finite" in failed[0]
    assert [found["method"] for found in read_rows(tmp_path / "toy.csv")] == ["supervised"] * 3
    assert len(told) == 5


def test_a_row_of_other_columns_does_not_keep_the_others_from_being_done(tmp_path: Path) -> None:
    results, told = tmp_path / "toy.csv", []
    failed = work_off(runs(1), results, lambda run: done(run) | {run.method: 1}, told.append)
    assert len(failed) == 2
    assert "mean_teacher" in failed[0]
    assert [found["method"] for found in read_rows(results)] == ["supervised"] * 3


def test_a_row_that_came_meanwhile_is_not_done_again(tmp_path: Path) -> None:
    results = tmp_path / "toy.csv"
    append_row(results, done(runs()[0]))
    with pytest.raises(ZeroDivisionError):
        work_off(runs(), results, lambda run: 1 / 0, print)  # the second run is the first to be executed
    work_off(runs()[:1], results, lambda run: 1 / 0, print)
