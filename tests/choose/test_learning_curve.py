"""The learning curve comes back as it was drawn, its interval covers as often as it says, and nothing is claimed."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from foveate.choose.labels_needed import labels_needed, read_csv
from foveate.choose.learning_curve import LEVEL, Point, fit_curve, labels_to_reach, squares_through
from foveate.errors import InputError

TRUE = (0.92, 0.35, 0.7)  # a, b, c


def dice(labels: float, a: float = TRUE[0], b: float = TRUE[1], c: float = TRUE[2]) -> float:
    return a - b * labels**-c


def drawn(
    counts: Sequence[int], seeds: int, noise: float, random: np.random.Generator, curve: tuple[float, ...] = TRUE
) -> list[Point]:
    return [Point(n, min(dice(n, *curve) + random.normal(0, noise), 1.0)) for n in counts for _ in range(seeds)]


@pytest.mark.parametrize("curve", [TRUE, (1.0, 0.9, 0.31), (0.75, 1.5, 0.95), (0.6, 0.5, 0.1)])
def test_a_curve_without_noise_comes_back(curve: tuple[float, ...]) -> None:
    points = drawn((3, 6, 14, 50), 1, 0.0, np.random.default_rng(0), curve)
    found = fit_curve(points)
    assert (found.a, found.b, found.c) == pytest.approx(curve, rel=1e-3)
    wanted = (curve[0] + dice(50, *curve)) / 2
    expected = (curve[1] / (curve[0] - wanted)) ** (1 / curve[2])
    assert labels_to_reach(points, wanted).labels == pytest.approx(expected, rel=1e-2)
    assert found.labels(curve[0] + 0.01) == math.inf


def test_the_last_point_of_a_measured_curve_is_foreseen_from_the_others() -> None:
    """Supervised Dice of the hippocampus benchmark, 10 processor minutes, with 4 labels thrice, 8, 16 and all 120."""
    few = [Point(4, 0.86152), Point(4, 0.84835), Point(4, 0.86638), Point(8, 0.87226), Point(16, 0.8745)]
    assert fit_curve(few).dice(120) == pytest.approx(0.8828, abs=0.004)
    assert labels_to_reach(few, 0.8828).high == math.inf, "five runs do not tell whether all labels get there"


def test_the_best_curve_is_the_best_of_a_brute_force_search() -> None:
    points = drawn((4, 8, 16, 64), 2, 0.02, np.random.default_rng(3))
    n, y = np.array([p.labels for p in points]), np.array([p.dice for p in points])
    a, b, c = np.meshgrid(np.linspace(0.8, 1, 81), np.linspace(0, 1, 101), np.geomspace(0.05, 1, 60), indexing="ij")
    least = float(((y - (a[..., None] - b[..., None] * n ** -c[..., None])) ** 2).sum(-1).min())
    found = fit_curve(points)
    assert found.squares <= least
    assert found.squares == pytest.approx(least, rel=0.02)
    assert found.a <= 1
    through = squares_through(n.astype(float), y, 40.0, 0.88)
    near = np.abs(a - b * 40.0**-c - 0.88) < 5e-4
    brute = ((y - (a[near][:, None] - b[near][:, None] * n ** -c[near][:, None])) ** 2).sum(-1).min()
    assert through == pytest.approx(float(brute), rel=0.05)
    assert through >= found.squares


@pytest.mark.parametrize(
    ("counts", "seeds", "wanted"), [((4, 8, 16, 32), 3, 0.9), ((4, 8, 160), 3, 0.88), ((2, 4, 8, 16, 32), 1, 0.89)]
)
def test_the_interval_covers_as_often_as_it_says(counts: Sequence[int], seeds: int, wanted: float) -> None:
    """A true number is inside when no test against it is passed; binomial tolerance of three deviations below."""
    random = np.random.default_rng(7)
    truth = (TRUE[1] / (TRUE[0] - wanted)) ** (1 / TRUE[2])
    simulations, inside = 250, 0
    for _ in range(simulations):
        points = drawn(counts, seeds, 0.01, random)
        n, y = np.array([float(p.labels) for p in points]), np.array([p.dice for p in points])
        free = len(y) - 3
        allowed = fit_curve(points).squares * (1 + stats.f.ppf(LEVEL, 1, free) / free)
        inside += squares_through(n, y, truth, wanted) <= allowed
    share = inside / simulations
    assert share >= LEVEL - 3 * math.sqrt(LEVEL * (1 - LEVEL) / simulations)
    assert share < 1  # an interval that always covers says nothing


def test_the_interval_that_is_given_is_that_of_the_test() -> None:
    points = drawn((4, 8, 16, 32), 3, 0.004, np.random.default_rng(1))
    needed = labels_to_reach(points, 0.9)
    assert needed.low is not None
    assert needed.high is not None
    assert needed.low < needed.labels < needed.high < math.inf
    n, y = np.array([float(p.labels) for p in points]), np.array([p.dice for p in points])
    allowed = needed.curve.squares * (1 + stats.f.ppf(LEVEL, 1, 9) / 9)
    for number, within in ((0.97, False), (1.03, True)):
        assert (squares_through(n, y, needed.low * number, 0.9) <= allowed) == within
        assert (squares_through(n, y, needed.high / number, 0.9) <= allowed) == within


def test_hiding_the_last_point_it_is_found_again() -> None:
    """Over many noisy curves, the hidden Dice is reached by the predicted number of labels within the interval."""
    random = np.random.default_rng(11)
    found = 0
    for _ in range(40):
        points = drawn((4, 8, 16, 32), 3, 0.006, random)
        needed = labels_to_reach(points, dice(64))
        assert needed.low is not None
        assert needed.high is not None
        found += needed.low <= 64 <= needed.high
    assert found >= 34  # 38 expected; fewer than 34 happen once in 50 times at a rate of 95%


def test_what_is_out_of_reach_is_so() -> None:
    points = drawn((4, 8, 16, 32, 64), 4, 0.002, np.random.default_rng(2), (0.8, 0.5, 1.2))
    needed = labels_to_reach(points, 0.9)
    assert (needed.labels, needed.low, needed.high) == (math.inf, math.inf, math.inf)
    flat = [Point(n, 0.7) for n in (4, 8, 16) for _ in range(2)]
    assert labels_to_reach(flat, 0.71).labels == math.inf
    with pytest.raises(ValueError, match="2 different numbers"):
        fit_curve([Point(4, 0.5), Point(8, 0.6), Point(8, 0.61)])


# --- files and words


def table(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows(method: str, points: Sequence[Point]) -> list[dict[str, object]]:
    fixed = {"dataset": "brains", "scored": "held", "without": "", "method": method, "train_cases": 80, "minutes": "15"}
    fixed |= {"threads": 2, "device": "cpu", "clock": "wall", "steps": 99}
    return [{**fixed, "seed": n, "labels": point.labels, "dice": point.dice} for n, point in enumerate(points)]


def name_of(method: str) -> str:
    return f"brains, {method}, 15 min on cpu with 2 threads, scored on held"


def test_every_curve_of_a_table_has_its_answer(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    good = rows("good", drawn((4, 8, 16, 32), 3, 0.002, random))
    poor = rows("poor", drawn((4, 8, 16, 32), 3, 0.002, random, (0.8, 0.5, 1.0)))
    few = rows("few", drawn((4, 8), 3, 0.002, random))
    exact = rows("exact", drawn((4, 8, 16), 1, 0.0, random))
    answers = labels_needed([table(tmp_path / "a.csv", good + poor + few + exact)], dice=0.9)
    assert list(answers) == [name_of(method) for method in ("good", "poor", "few", "exact")]
    good_text, poor_text, few_text, exact_text = answers.values()
    assert "12 runs with 4, 8, 16, 32 labels" in good_text
    assert "more than 32. 95% interval: " in good_text
    assert "0.9 is out of reach by labels alone. The whole 95% interval is out of reach." in poor_text
    assert "6 runs with 4, 8 labels: too few to tell." in few_text
    assert "No interval" in exact_text
    assert "is reached at about" in labels_needed([tmp_path / "a.csv"], dice=0.85)[name_of("good")]


def test_all_labels_are_as_many_as_there_are_cases_and_other_settings_are_another_curve(tmp_path: Path) -> None:
    points = [Point(n, dice(n)) for n in (4, 8, 16)]
    everything = {**rows("m", [Point(80, dice(80))])[0], "labels": "all"}
    changes = ({"threads": 1}, {"clock": "processor"}, {"without": "test"}, {"device": "gpu"}, {"minutes": "1"})
    other = [{**row, **change} for row in rows("m", points) for change in changes]
    answers = labels_needed([table(tmp_path / "a.csv", [*rows("m", points), everything, *other])], dice=0.9)
    assert len(answers) == 6
    assert "brains, m, 15 processor min on cpu with 2 threads, scored on held" in answers
    assert f"{name_of('m')}, without test" in answers
    assert "4 runs with 4, 8, 16, 80 labels" in answers[name_of("m")]


def test_a_run_that_stands_twice_counts_once(tmp_path: Path) -> None:
    found = rows("m", [Point(n, dice(n)) for n in (4, 8, 16)])
    answers = labels_needed([table(tmp_path / "a.csv", [*found, *found])], dice=0.9)
    assert "3 runs with 4, 8, 16 labels" in answers[name_of("m")]


def run_folder(path: Path, labels: int, score: float, cases: Sequence[str] = ("t1", "t2"), **more: object) -> Path:
    path.mkdir()
    data = {f"c{n}": {"image": "00", "label": "11" if n < labels else None} for n in range(80)}
    config = {"method": {"name": "supervised"}, "steps": None, "minutes": 15.0, **more}
    (path / "provenance.json").write_text(json.dumps({"data": data, "config": config}))
    scores = {"dice": score, "cases": [{"case": name} for name in cases]}
    (path / "evaluation.json").write_text(json.dumps(scores))
    return path


def test_run_folders_judged_by_other_cases_are_of_another_curve(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / f"r{n}", n, dice(n)) for n in (4, 8, 16, 32)]
    answers = labels_needed(folders, dice=0.9)
    assert len(answers) == 1
    ((name, text),) = answers.items()
    assert name.startswith("supervised, 15.0 min, 2 test cases (")
    number = (TRUE[1] / (TRUE[0] - 0.9)) ** (1 / TRUE[2])
    assert f"takes about {math.ceil(number)} labels, {math.ceil(number) - 32} more than 32" in text
    other = run_folder(tmp_path / "other", 64, 0.5, ("t1", "t3"))
    assert len(labels_needed([*folders, other])) == 2
    like = run_folder(tmp_path / "like", 64, 0.5, seed=1, device="gpu", cache="elsewhere", checkpoint_seconds=5)
    assert len(labels_needed([*folders, *folders, like])) == 1
    assert "5 runs" in labels_needed([*folders, *folders, like])[name]


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"name": "window_unet"}},
        {"pretrain": {"name": "dbn"}},
        {"init": "elsewhere"},
        {"augment": {"scale": 0.5}},
        {"clock": "processor"},
    ],
)
def test_run_folders_of_another_configuration_are_of_another_curve(tmp_path: Path, change: dict[str, Any]) -> None:
    folders = [run_folder(tmp_path / "a", 4, 0.5), run_folder(tmp_path / "b", 8, 0.6, **change)]
    assert len(labels_needed(folders)) == 2


def test_what_cannot_be_read_is_refused_with_the_place(tmp_path: Path) -> None:
    bad = table(tmp_path / "bad.csv", [{**row, "dice": "x"} for row in rows("m", [Point(4, 0.5)])])
    with pytest.raises(InputError, match=r"bad\.csv: line 2: found labels 4, dice x"):
        read_csv(bad)
    with pytest.raises(InputError, match="columns: found no dataset, scored, without, train_cases, dice"):
        read_csv(table(tmp_path / "other.csv", [{"method": "a", "labels": 3}]))
    with pytest.raises(InputError, match=r"evaluation\.json: file: .*foveate evaluate"):
        labels_needed([tmp_path])
    with pytest.raises(InputError, match=r"dice: found 1\.5"):
        labels_needed([bad], dice=1.5)
