"""Rows are kept whatever happens: killed at any file operation, or written by many processes at once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made import row

from foveate.bench.rows import CASES, append_row, read_rows, run_name
from foveate.bench.table import Setting
from foveate.errors import InputError

# Kills itself at the n-th operation on a file while it adds a row, for n = 1, 2, ... until it is done before; after
# each kill the rows that were there must be there, and the new one at most once.
KILLED_EVERYWHERE = """
import os, signal, sys
from pathlib import Path
from foveate.bench.rows import append_row, read_rows, run_name
from made import row

path = Path(sys.argv[1])
operations = ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "fcntl.flock")

def add(new, fatal):
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event in operations:
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    append_row(path, new)
    os._exit(0)

written, fatal, killed = ["supervised"], 0, 0
append_row(path, row())
while True:
    fatal += 1
    new = row(f"method_{fatal}")
    child = os.fork()
    if child == 0:
        add(new, fatal)
    status = os.waitpid(child, 0)[1]
    names = [found["method"] for found in read_rows(path)]
    assert names[: len(written)] == written, (fatal, names)
    assert names[len(written) :] in ([], [new["method"]]), (fatal, names)
    if not os.WIFSIGNALED(status):
        assert names[-1] == new["method"]
        break
    killed += 1
    assert append_row(path, new) == (len(names) == len(written)), "what the kill left is finished, and not doubled"
    written.append(new["method"])
    assert [found["method"] for found in read_rows(path)] == written
print(killed)
"""

MANY = """
import sys
from pathlib import Path
from foveate.bench.rows import append_row
from made import row

for seed in range(20):
    append_row(Path(sys.argv[1]), row(sys.argv[2], seed=seed))
    append_row(Path(sys.argv[1]), row("everybody", seed=seed))
"""


def run(script: str, *arguments: object) -> subprocess.Popen[str]:
    folders = [str(folder) for folder in Path(__file__).resolve().parents[:2]]  # made.py, toys.py
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {folders!r}\n{script}", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
def test_killed_at_any_file_operation_no_row_is_lost_and_none_counted_twice(tmp_path: Path) -> None:
    out, err = (process := run(KILLED_EVERYWHERE, tmp_path / "toy.csv")).communicate()
    assert process.returncode == 0, err
    assert int(out) >= 6, "the lock, two temporary files, two renames and the lock's removal are operations each"
    assert not list(tmp_path.glob(".*.lock"))


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    processes = [run(MANY, tmp_path / "toy.csv", f"method_{number}") for number in range(3)]
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    names = [run_name(found) for found in read_rows(tmp_path / "toy.csv")]
    assert len(names) == len(set(names)) == 3 * 20 + 20


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv"
    first, second = row(plan="spacing 1x1, patch 8"), row("copy_paste", labels="all")
    second[CASES]["c0"]["dice"] = [None, 0.5]  # a class that does not apply
    assert append_row(path, first)
    assert append_row(path, second)
    assert read_rows(path) == [first, second]


def test_a_run_keeps_its_first_row_unless_the_row_lost_its_cases(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv"
    append_row(path, row(dice=0.8))
    append_row(path, row("copy_paste"))
    assert not append_row(path, row(dice=0.9)), "scored twice is not scored better"
    assert [found["dice"] for found in read_rows(path)] == ["0.8", "0.8"]
    (tmp_path / "toy_cases" / f"{run_name(row())}.json").unlink()
    assert [found["method"] for found in read_rows(path)] == ["copy_paste"]
    assert append_row(path, row(dice=0.9))
    assert [(found["method"], found["dice"]) for found in read_rows(path)] == [
        ("copy_paste", "0.8"),
        ("supervised", "0.9"),
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"scored": "validation"},
        {"method": "mean_teacher"},
        {"labels": "all"},
        {"seed": "1"},
        {"minutes": "1.5"},
        {"threads": "1"},
        {"device": "gpu"},
        {"clock": "processor"},
    ],
)
def test_what_tells_runs_apart(tmp_path: Path, other: dict[str, str]) -> None:
    assert append_row(tmp_path / "toy.csv", row())
    assert append_row(tmp_path / "toy.csv", row(**other))
    assert run_name(row(**other)) != run_name(row())


def test_other_columns_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv"
    append_row(path, row())
    before = path.read_bytes()
    with pytest.raises(InputError, match="columns"):
        append_row(path, row("mean_teacher", more=1))
    assert path.read_bytes() == before


def test_a_peer_has_a_file_name_that_every_system_takes(tmp_path: Path) -> None:
    append_row(tmp_path / "toy.csv", row("peer:nnunet"))
    files = [file.name for file in (tmp_path / "toy_cases").iterdir()]
    assert files == ["test-peer_nnunet-8-s0-15min-2t-cpu.json"]
    assert json.loads((tmp_path / "toy_cases" / files[0]).read_text())["c0"]["patient"] == "c0"


def conflict(text: str) -> str:
    header, *lines = text.splitlines(keepends=True)
    return header + "<<<<<<< HEAD\n" + "".join(lines) + "=======\n>>>>>>> theirs\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-1], r"toy\.csv: line 3: found no end of the line"),
        (lambda text: text[:-30], r"toy\.csv: line 3: found 2\d cells, the first 'toy'; expected 2\d as in"),
        (
            lambda text: text[:-10],
            r"toy\.csv: line 3: found unexpected end of data",
        ),
        (conflict, r"toy\.csv: line 2: found 1 cells, the first '<<<<<<< HEAD'"),
        (lambda text: text.replace(",clock,", ",time,"), r"toy\.csv: columns: found no clock; expected scored, method"),
        (lambda text: text.replace(",nsd,", ",nds,"), r"toy\.csv: columns: found no nsd"),
        (
            lambda text: text.replace(",15,", ",x,", 1),
            r"toy\.csv: line 2, column minutes: found 'x'; expected a number",
        ),
        (
            lambda text: text.replace("0.75", "good", 1),
            r"toy\.csv: line 3, column dice: found 'good'; expected a number",
        ),
        (lambda text: text.replace("a plan", "\udcff"), r"toy\.csv: line 2: found bytes that are no UTF-8"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_the_place(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "toy.csv"
    append_row(path, row(plan="a plan, and more"))
    append_row(path, row("copy_paste", dice=0.75, plan="a plan, and more"))
    path.write_bytes(change(path.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=message):
        Setting("test", 15.0, 2, "cpu").read(path)


def test_a_folder_in_the_place_of_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file: found Is a directory"):
        read_rows(tmp_path)


def test_what_a_table_does_not_show_may_be_anything(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv"
    append_row(path, row(nsd="?"))
    append_row(path, row(scored="other", dice=0.75, labels="4"))
    assert len(read_rows(path)) == 2
    assert len(Setting("other", 15.0, 2, "cpu").read(path)) == 1


@pytest.mark.parametrize("left", ['{"c0": {"pat', "<<<<<<< HEAD\n{}\n", "[]", "", "\udcff"])
def test_cases_that_cannot_be_read_are_lost(tmp_path: Path, left: str) -> None:
    path = tmp_path / "toy.csv"
    append_row(path, row())
    cases = tmp_path / "toy_cases" / f"{run_name(row())}.json"
    cases.write_bytes(left.encode(errors="surrogateescape"))
    assert read_rows(path) == []
    assert append_row(path, row())
    assert read_rows(path) == [row()]
