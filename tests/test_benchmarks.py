"""The committed rows, splits and pages, and the comparison of throughput."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from foveate.bench.draws import Draws
from foveate.bench.page import check_section
from foveate.bench.pools import read_pools
from foveate.bench.rows import read_rows
from foveate.cohort.layouts import find_cohort, read_ids

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SPLITS, RESULTS = BENCHMARKS / "splits", BENCHMARKS / "results"
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402
import dbn_volume  # noqa: E402
import few_labels  # noqa: E402
import localisation  # noqa: E402
import planted  # noqa: E402
import throughput  # noqa: E402

SECTIONS = ("hippocampus", "hippocampus-validation", "left-atrium", "throughput", "memory", "metrics")
SECTIONS += ("modalities", "dbn-volume", "localisation-0", "localisation-1", "localisation-2", "few-labels-bccd")
SECTIONS += ("few-labels-brain-tumour-15-minutes", "few-labels-brain-tumour-shares", "few-to-calibrate")
SECTIONS += ("few-labels-hippocampus-boxes", "few-labels-hippocampus-volume")


@pytest.mark.parametrize("name", SECTIONS)
def test_every_benchmark_finds_its_section_in_the_docs(name: str) -> None:
    check_section(name, common.DOCS)


def test_time_in_which_a_side_is_stopped_is_not_its_own() -> None:
    script = "import time\nprint('{}')\nwhile True:\n    print('step', flush=True)\n    time.sleep(0.02)"
    with throughput.running({"side": [sys.executable, "-c", script]}, {}) as (side,):
        time.sleep(1.5)
        turn = side.steps(50)  # enough that a moment in which nobody read their first line is lost among them
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


def boxes_of_several_sizes(folder: Path, cases: int) -> list[str]:
    """Scans, of voxels of 1 x 2 x 1 mm, and their labels; their ids."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    ids = [f"c{case:02}" for case in range(cases)]
    for case, name in enumerate(ids):
        label = np.zeros((16, 16, 16), np.uint8)
        label[3 : 6 + case % 8, 4:12, 4:12] = 1
        image = (100 * label + rng.normal(0, 5, label.shape)).astype(np.float32)
        for part, array in (("images", image), ("labels", label)):
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 2, 1, 1])), folder / part / f"{name}.nii.gz")
    return ids


def test_few_labels_keep_their_parts_apart_and_volumes_without_the_label_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = boxes_of_several_sizes(tmp_path / "hippocampus", 40)
    monkeypatch.setenv("FOVEATE_DATA", str(tmp_path))
    monkeypatch.setattr(few_labels, "RUNS", tmp_path / "runs")
    test, choosing = (few_labels.FewLabels("hippocampus_volume", scored, 1, 1, "wall") for scored in few_labels.FIFTHS)
    parts = [{case.id for case in part} for part in (test.scored, choosing.scored, choosing.train)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(ids)
    assert {case.id for case in test.train} == parts[1] | parts[2]
    assert len(choosing.draw("50%", 0)) == -(-len(parts[2]) // 2)
    assert set(choosing.draw("50%", 0)) < parts[2]
    folder = choosing.work / "train"
    assert sorted(path.name for path in folder.iterdir()) == ["images", "labels.csv"]
    volumes = {case.id: case.target for case in find_cohort(folder).cases}
    assert volumes == {name: pytest.approx((3 + int(name[1:]) % 8) * 64 * 2 / 1000) for name in parts[2]}


def test_the_comparison_of_volumes_runs_and_tells_the_scored_apart(tmp_path: Path) -> None:
    """Boxes of several sizes on a dark ground: what is bright can be summed, the mean cannot know."""
    ids = boxes_of_several_sizes(tmp_path, 14)
    (tmp_path / "labelled_8.txt").write_text("\n".join(ids[:8]))
    (tmp_path / "scored.txt").write_text("\n".join(ids[8:]))
    data, scored = ["--data", str(tmp_path)], ["--scored", str(tmp_path / "scored.txt")]
    text = dbn_volume.main([*data, *scored, "--steps", "2", "--labels", "8"])
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in text.splitlines() if line.startswith("|")}
    assert len(rows) == 8
    assert int(rows["stack, deep belief network"][0]) == int(rows["stack, random"][0]) > 1
    assert float(rows["stack, random"][2].split()[0]) > float(rows["mean of the labelled"][2].split()[0])


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.2, 3.0)])
def test_a_planted_lesion_lies_in_the_head_and_changes_nothing_else(spacing: tuple[float, ...]) -> None:
    shape = (64, 60) if len(spacing) == 2 else (32, 30, 12)
    middle = [(n - 1) / 2 for n in shape]
    offsets = [(o - m) / (0.4 * n) for o, m, n in zip(np.indices(shape), middle, shape, strict=True)]
    image = 100.0 * (sum(o**2 for o in offsets) < 1) + np.random.default_rng(0).normal(0, 5, shape)
    head = planted.tissue(image)
    centres = []
    for seed in range(8):
        changed, mask = planted.plant(image, spacing, np.random.default_rng(seed))
        again, _ = planted.plant(image, spacing, np.random.default_rng(seed))
        np.testing.assert_array_equal(changed, again)
        assert mask.any()
        assert (mask & head).sum() > 0.7 * mask.sum()
        added = changed - image
        assert added[mask].mean() > 0.5 * planted.CONTRAST[0] * image[head].std()
        far = planted.ndimage.distance_transform_edt(~mask, sampling=spacing) > planted.RADIUS[1] * 64 * 1.5
        assert np.abs(added[far]).max() < 0.05 * added.max()
        centres.append(np.argwhere(mask).mean(0))
    assert np.std(centres, axis=0).min() > 0.5


def test_the_planted_lesions_are_learned_from_and_scored(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for case in range(26):
        picture = np.zeros((32, 32))
        picture[3:29, 5:27] = 90
        localisation.Image.fromarray((picture + rng.uniform(0, 9, picture.shape)).astype(np.uint8)).save(
            tmp_path / f"c{case:02}.png"
        )
    text = localisation.main(
        ["--data", str(tmp_path), "--steps", "2", "--size", "32", "--scored", "3", "--choosing", "2"]
    )
    assert "on 3 scans, each with and without a lesion" in text
    assert "21 scans to learn from" in text
