"""The benchmarks' own logic: what is run again, how pages are rewritten, how differences and shares are computed."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import few_labels  # noqa: E402
import few_labels_table as table  # noqa: E402
import rows  # noqa: E402
import throughput  # noqa: E402


def row(method: str, labels: int, seed: int, dice: float, minutes: str = "15") -> dict[str, Any]:
    """A row as a run leaves it: four cases around a mean Dice, the same pattern for every method."""
    pattern = [-0.02, -0.01, 0.01, 0.02]
    return {
        "dataset": "hippocampus",
        "method": method,
        "labels": labels,
        "seed": seed,
        "minutes": minutes,
        "steps": 1000,
        "dice": dice,
        "dice_anterior": dice,
        "dice_posterior": dice,
        "hd95_mm": 1.5,
        "nsd": 0.9,
        "seconds": 900,
        "cpu_seconds": 1800,
        "peak_rss_mb": 700,
        "commit": "abc",
        "machine": "a processor",
        "date": "2026-01-01",
        "plan": "a plan",
        rows.CASES: {f"case_{i}": [dice + shift, dice + shift] for i, shift in enumerate(pattern)},
    }


def test_only_runs_without_a_row_are_run_and_seeds_come_in_turn(tmp_path: Path) -> None:
    results = tmp_path / "hippocampus.csv"
    wanted = few_labels.list_runs("hippocampus", ["supervised", "mean_teacher"], 8, 160, seeds=2, minutes=15.0)
    assert [(run.method, run.labels, run.seed) for run in wanted] == [
        ("supervised", 8, 0),
        ("mean_teacher", 8, 0),
        ("supervised", 160, 0),
        ("supervised", 8, 1),
        ("mean_teacher", 8, 1),
        ("supervised", 160, 1),
    ]
    rows.append_row(results, row("supervised", 8, 0, 0.86))
    rows.append_row(results, row("mean_teacher", 8, 1, 0.87))
    rows.append_row(results, row("supervised", 160, 0, 0.88, minutes="5"))  # another length: another run
    left = few_labels.left_over(wanted, rows.read_rows(results))
    assert [(run.method, run.labels, run.seed) for run in left] == [
        ("mean_teacher", 8, 0),
        ("supervised", 160, 0),
        ("supervised", 8, 1),
        ("supervised", 160, 1),
    ]


def test_rows_come_back_with_their_cases_and_not_without(tmp_path: Path) -> None:
    results = tmp_path / "hippocampus.csv"
    first, second = row("supervised", 8, 0, 0.86), row("copy_paste", 8, 0, 0.85)
    rows.append_row(results, first)
    rows.append_row(results, second)
    found = rows.read_rows(results)
    assert [r["method"] for r in found] == ["supervised", "copy_paste"]
    assert found[1][rows.CASES] == second[rows.CASES]
    (tmp_path / "hippocampus_cases" / f"{rows.run_name(first)}.json").unlink()
    assert [r["method"] for r in rows.read_rows(results)] == ["copy_paste"]
    with pytest.raises(ValueError, match="columns"):
        rows.append_row(results, {**first, "more": 1})
    assert len(rows.read_rows(results)) == 1


def test_a_section_is_rewritten_and_the_rest_of_the_page_kept(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n<!-- begin one -->\nold\nold\n<!-- end one -->\nB\n<!-- begin two -->\nC\n<!-- end two -->\n")
    common.write_section("one", "new | table", page)
    common.write_section("one", "newer | table", page)
    assert page.read_text() == (
        "# A\n<!-- begin one -->\nnewer | table\n<!-- end one -->\nB\n<!-- begin two -->\nC\n<!-- end two -->\n"
    )
    before = page.read_text()
    with pytest.raises(ValueError, match="begin three"):
        common.write_section("three", "text", page)
    assert page.read_text() == before


def test_every_benchmark_finds_its_section_in_the_docs() -> None:
    page = common.DOCS.read_text(encoding="utf-8")
    for name in [*few_labels.CLASSES, "throughput"]:
        assert page.count(f"<!-- begin {name.replace('_', '-')} -->") == 1


def test_share_of_the_gap() -> None:
    assert table.gap_share(0.875, 0.865, 0.885) == pytest.approx(0.5)
    assert table.gap_share(0.855, 0.865, 0.885) == pytest.approx(-0.5)
    assert table.gap_share(0.885, 0.865, 0.885) == pytest.approx(1.0)
    assert math.isnan(table.gap_share(0.9, 0.88, 0.87))


def test_differences_pair_cases_and_only_the_seeds_that_both_have() -> None:
    baseline = {0: row("supervised", 8, 0, 0.80), 1: row("supervised", 8, 1, 0.70)}
    ours = {0: row("copy_paste", 8, 0, 0.81)}
    middle, low, high = table.paired(ours, baseline)
    # Every case of seed 0 differs by 0.01: pairing leaves no spread, and seed 1 of the baseline does not count.
    assert np.allclose([middle, low, high], 0.01)
    with pytest.raises(ValueError, match="different cases"):
        table.paired({0: {**ours[0], rows.CASES: {"other": [0.5, 0.5]}}}, baseline)


def test_the_table_shows_losses_and_the_share_of_the_gap() -> None:
    found = [row("supervised", 8, s, 0.86) for s in (0, 1)] + [row("supervised", 160, s, 0.88) for s in (0, 1)]
    found += [row("mean_teacher", 8, s, 0.87) for s in (0, 1)] + [row("copy_paste", 8, 0, 0.85)]
    found += [row("mean_teacher", 8, 0, 0.5, minutes="5"), row("mean_teacher", 16, 0, 0.5)]  # of other tables
    text = table.render(found, ["anterior", "posterior"], 8, 15.0)
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert [(line[0], line[1]) for line in lines] == [
        ("| supervised", "8"),
        ("| mean_teacher", "8"),
        ("| copy_paste", "8"),
        ("| supervised", "160"),
    ]
    assert [line[8] for line in lines] == ["0%", "50%", "-50%", "100%"]
    assert [line[7][:7] for line in lines] == ["-", "+0.0100", "-0.0100", "+0.0200"]
    assert "--ceiling" in text
    assert table.render([], ["anterior"], 8, 15.0) == "Not measured yet."


def test_peak_memory_and_exit_code_are_those_of_the_command(tmp_path: Path) -> None:
    small = common.measure([sys.executable, "-c", "print('hello')"], tmp_path / "log")
    size = int(small.peak_rss_mb) + 200  # what the parent holds is counted too
    script = f"x = b'1' * ({size} << 20); raise SystemExit(3)"
    large = common.measure([sys.executable, "-c", script], tmp_path / "log")
    assert (small.code, large.code) == (0, 3)
    assert size < large.peak_rss_mb < size + 100
    assert "hello" in (tmp_path / "log").read_text()


def test_time_in_which_a_side_is_stopped_is_not_its_own() -> None:
    script = "import time\nprint('{}')\nwhile True:\n    print('step', flush=True)\n    time.sleep(0.02)"
    with throughput.running({"side": [sys.executable, "-c", script]}, {}) as (side,):
        time.sleep(1.5)
        turn = side.steps(5)
    assert 0.02 <= turn.wall < 0.2
    assert turn.processor < 0.02


@pytest.mark.parametrize(("dataset", "largest", "count"), [("hippocampus", 32, 40), ("left_atrium", 16, 16)])
def test_splits_are_the_documented_draw(shared_data: Path, dataset: str, largest: int, count: int) -> None:
    folder = shared_data / dataset
    labelled = few_labels.read_ids(folder / f"labelled_{largest}.txt")
    ids = sorted(file.name.removesuffix(".nii.gz") for file in (folder / "images").glob("*.nii.gz"))
    rest = [case for case in ids if case not in set(labelled)]
    drawn = np.random.default_rng(20261123).permutation(rest)[:count].tolist()
    assert few_labels.read_ids(BENCHMARKS / "splits" / f"{dataset}_test.txt") == drawn


def test_training_and_test_datasets_share_no_case(shared_data: Path, tmp_path: Path) -> None:
    bench = few_labels.Bench("hippocampus", shared_data / "hippocampus", tmp_path, 8, 1)
    assert (len(bench.train), len(bench.test)) == (160, 40)
    bench.build()
    kept = {part: {f.name for f in (bench.work / part / "images").iterdir()} for part in ("train", "test")}
    assert not kept["train"] & kept["test"]
    assert {f.name for f in (bench.work / "test" / "labels").iterdir()} == kept["test"]
    assert json.loads((bench.work / "train" / "dataset.json").read_text())["numTraining"] == 160


def test_a_side_that_fails_to_start_is_not_left_behind(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    lines = ["import os, time", f"open({str(mark)!r}, 'w').write(str(os.getpid()))", "print('no json', flush=True)"]
    script = "\n".join([*lines, "time.sleep(60)"])
    with pytest.raises(json.JSONDecodeError):
        throughput.Side("side", [sys.executable, "-c", script], {})
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)
