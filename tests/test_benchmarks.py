"""The committed rows, splits and pages, and the comparison of throughput."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from foveate.bench.draws import Draws
from foveate.bench.page import check_section
from foveate.bench.pools import read_pools
from foveate.bench.rows import read_rows
from foveate.cohort.layouts import read_ids

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SPLITS, RESULTS = BENCHMARKS / "splits", BENCHMARKS / "results"
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import throughput  # noqa: E402

SECTIONS = ("hippocampus", "hippocampus-validation", "left-atrium", "throughput", "memory", "metrics", "modalities")


@pytest.mark.parametrize("name", SECTIONS)
def test_every_benchmark_finds_its_section_in_the_docs(name: str) -> None:
    check_section(name, common.DOCS)


def test_time_in_which_a_side_is_stopped_is_not_its_own() -> None:
    script = "import time\nprint('{}')\nwhile True:\n    print('step', flush=True)\n    time.sleep(0.02)"
    with throughput.running({"side": [sys.executable, "-c", script]}, {}) as (side,):
        time.sleep(1.5)
        turn = side.steps(5)
    assert 0.02 <= turn.wall < 0.2
    assert turn.processor < 0.02


def split_parts(shared_data: Path, dataset: str, largest: int) -> tuple[list[str], set[str]]:
    """Every case of a dataset, and the labelled ones."""
    folder = shared_data / dataset
    ids = sorted(file.name.removesuffix(".nii.gz") for file in (folder / "images").glob("*.nii.gz"))
    return ids, set(read_ids(folder / f"labelled_{largest}.txt"))


@pytest.mark.parametrize(("dataset", "largest", "count"), [("hippocampus", 32, 40), ("left_atrium", 16, 16)])
def test_splits_are_the_documented_draws(shared_data: Path, dataset: str, largest: int, count: int) -> None:
    ids, labelled = split_parts(shared_data, dataset, largest)
    test = np.random.default_rng(20261123).permutation([case for case in ids if case not in labelled])[:count].tolist()
    assert read_ids(SPLITS / f"{dataset}_test.txt") == test
    rest = [case for case in ids if case not in labelled and case not in test]
    random.Random("validation").shuffle(rest)
    assert read_ids(SPLITS / f"{dataset}_validation.txt") == sorted(rest[:count])


@pytest.mark.parametrize(("dataset", "labelled"), [("hippocampus", 8), ("left_atrium", 8)])
def test_the_real_data_are_split_as_the_committed_rows_say(shared_data: Path, dataset: str, labelled: int) -> None:
    rows = read_rows(RESULTS / f"{dataset}.csv")
    pools = read_pools(shared_data / dataset, SPLITS / f"{dataset}_test.txt", classes={"any": (1, 2)})
    draws = Draws(shared_data / dataset, pools.train.labelled, ["any"], pools.shows)
    assert draws.take(0, labelled) == sorted(read_ids(shared_data / dataset / f"labelled_{labelled}.txt"))
    for row in rows:
        if row["scored"] == f"{dataset}_test":
            assert int(row["train_cases"]) == len(pools.train.cases)
            assert set(row["cases"]) == {case.id for case in pools.scored.cases}


def test_a_side_that_fails_to_start_is_not_left_behind(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    lines = ["import os, time", f"open({str(mark)!r}, 'w').write(str(os.getpid()))", "print('no json', flush=True)"]
    script = "\n".join([*lines, "time.sleep(60)"])
    with pytest.raises(json.JSONDecodeError):
        throughput.Side("side", [sys.executable, "-c", script], {})
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)
