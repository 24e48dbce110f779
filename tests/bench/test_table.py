"""The table's numbers against arithmetic by hand, and what a reader must not miss: losses, spread, provenance."""

import math
from typing import Any

import numpy as np
import pytest
from made import row

from foveate.bench.plot import write_plot
from foveate.bench.rows import CASES
from foveate.bench.table import (
    NAN,
    Setting,
    command,
    gap_share,
    group_rows,
    mean_dice,
    paired,
    render,
    training_minutes,
)
from foveate.metrics.bootstrap import RESAMPLES, SEED


def with_dice(values: dict[str, float], patient: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """A row of one class with the given Dice per case."""
    cases = {case: {"patient": (patient or {}).get(case, case), "dice": [dice]} for case, dice in values.items()}
    made = row(**more, dice=float(np.mean(list(values.values()))))
    return {key: value for key, value in made.items() if not key.startswith("dice_")} | {CASES: cases}


def by_hand(statistic: list[float]) -> tuple[float, float]:
    low, high = np.percentile(statistic, [2.5, 97.5])
    return float(low), float(high)


def resamples(number: int) -> np.ndarray:
    """How often each of ``number`` patients counts: the bootstrap written out."""
    return np.random.default_rng(SEED).multinomial(number, [1 / number] * number, size=RESAMPLES)


ONE = {"a": 0.80, "b": 0.70, "c": 0.90}
TWO = {"a": 0.84, "b": 0.72, "c": 0.89}
TOP = {"a": 0.90, "b": 0.80, "c": 0.95}


def test_difference_and_share_are_those_of_a_calculation_by_hand() -> None:
    baseline, ours, ceiling = ({0: with_dice(values)} for values in (ONE, TWO, TOP))
    middle, low, high = paired(ours, baseline)
    assert middle == pytest.approx((0.04 + 0.02 - 0.01) / 3)
    drawn = [(0.04 * a + 0.02 * b - 0.01 * c) / 3 for a, b, c in resamples(3)]
    assert (low, high) == pytest.approx(by_hand(drawn))
    share, low, high = gap_share(ours, baseline, ceiling)
    assert share == pytest.approx((0.04 + 0.02 - 0.01) / (0.10 + 0.10 + 0.05))
    shares = [(0.04 * a + 0.02 * b - 0.01 * c) / (0.10 * a + 0.10 * b + 0.05 * c) for a, b, c in resamples(3)]
    assert (low, high) == pytest.approx(by_hand(shares))
    value, low, high = mean_dice(ours)
    assert value == pytest.approx((0.84 + 0.72 + 0.89) / 3)
    assert (low, high) == pytest.approx(by_hand([(0.84 * a + 0.72 * b + 0.89 * c) / 3 for a, b, c in resamples(3)]))


def test_seeds_are_averaged_case_by_case_and_only_those_that_both_have_count() -> None:
    baseline = {0: with_dice(ONE), 1: with_dice(dict.fromkeys(ONE, 0.1))}
    ours = {0: with_dice({case: dice + 0.01 for case, dice in ONE.items()}), 2: with_dice(TOP)}
    # Every case of seed 0 differs by 0.01: pairing leaves no spread, and the seeds without a partner do not count.
    assert paired(ours, baseline) == pytest.approx((0.01, 0.01, 0.01))
    both = {0: with_dice(ONE), 1: with_dice(TWO)}
    assert mean_dice(both).value == pytest.approx((sum(ONE.values()) + sum(TWO.values())) / 6)
    assert all(map(math.isnan, paired({2: with_dice(ONE)}, baseline)))


def test_a_structure_that_one_seed_alone_predicts_counts_in_that_seed() -> None:
    """Case b has none: Dice 0 where it is predicted, no Dice where it is not."""
    baseline = {seed: with_dice({"a": 0.8, "b": NAN, "c": 0.9}) for seed in (0, 1)}
    ours = {0: with_dice({"a": 0.8, "b": 0.0, "c": 0.9}), 1: baseline[1]}
    assert mean_dice(ours).value == pytest.approx(((0.8 + 0.0 + 0.9) / 3 + (0.8 + 0.9) / 2) / 2)
    assert paired(ours, baseline).value == pytest.approx(((0.8 + 0.0 + 0.9) / 3 - (0.8 + 0.9) / 2) / 2)


def test_patients_are_resampled_and_not_their_scans() -> None:
    patient = {"a": "p", "b": "p"}
    ours, baseline = {0: with_dice(TWO, patient)}, {0: with_dice(ONE, patient)}
    drawn = [(p * (0.04 + 0.02) - 0.01 * c) / (2 * p + c) for c, p in resamples(2)]  # patients "c" and "p"
    assert paired(ours, baseline)[1:] == pytest.approx(by_hand(drawn))
    alone = dict.fromkeys(ONE, "p")
    value, low, high = mean_dice({0: with_dice(ONE, alone)})
    assert (value, math.isnan(low), math.isnan(high)) == (pytest.approx(0.8), True, True)


def test_share_of_the_gap_where_there_is_none_or_hardly_one() -> None:
    def group(values: list[float]) -> dict[int, dict[str, Any]]:
        return {0: with_dice({f"c{i}": value for i, value in enumerate(values)})}

    low, high = group([0.5, 0.6]), group([0.7, 0.8])
    assert gap_share(low, low, high) == pytest.approx((0, 0, 0))
    assert gap_share(high, low, high) == pytest.approx((1, 1, 1))
    assert gap_share(group([0.4, 0.5]), low, high).value == pytest.approx(-0.5)
    assert all(map(math.isnan, gap_share(high, high, low)))
    unsure = gap_share(low, low, group([0.3, 0.9]))  # the ceiling is higher in the mean and not in each resample
    assert unsure.value == 0
    assert math.isnan(unsure.low)


def test_configurations_that_were_scored_on_different_cases_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different cases"):
        paired({0: with_dice(ONE)}, {0: with_dice({"x": 0.5})})
    with pytest.raises(ValueError, match="different cases"):
        mean_dice({0: with_dice(ONE), 1: with_dice({"x": 0.5})})


def rows() -> list[dict[str, Any]]:
    found = [row(labels=n, seed=s, dice=d + s / 100) for n, d in (("4", 0.82), ("8", 0.86)) for s in (0, 1)]
    found += [row(labels="all", seed=s, dice=0.90 + s / 100) for s in (0, 1)]
    found += [row("mean_teacher", "8", s, 0.88 + s / 100) for s in (0, 1)]
    return [*found, row("peer:nnunet", "8", 0, 0.84)]


def cells(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]


def test_the_table_shows_losses_the_gap_and_its_share() -> None:
    lines = cells(render(rows()))
    assert [line[:3] for line in lines] == [
        ["4", "supervised", "2"],
        ["8", "supervised", "2"],
        ["8", "mean_teacher", "2"],
        ["8", "peer:nnunet", "1"],
        ["all 160", "supervised", "2"],
    ]
    assert lines[1][4:7] == ["0.8600 to 0.8700", "0.8650", "0.8650"]
    assert [line[7].split(" ")[0] for line in lines] == ["-", "-", "+0.0200", "-0.0200", "-"]
    assert [line[8].split(" (")[0] for line in lines] == ["of +0.0800", "of +0.0400", "50%", "-50%", "-"]
    assert [line[-1] for line in lines] == ["700"] * 5
    assert cells(render([*rows()[:-1], row("peer:nnunet", "8", 0, 0.6)]))[3][8] == "below -100%"
    assert render([]) == "Not measured yet."


def test_the_command_of_a_table_is_told() -> None:
    assert command(rows()) == (
        "foveate bench label-efficiency toy --methods supervised,mean_teacher --peer nnunet=nnunet.py --labels 4,8 "
        "--seeds 2 --minutes 15 --score test.txt --ceiling --threads 2"
    )
    alone = [row(without="test", device="gpu", scored="validation")]
    assert "--score validation.txt --without test.txt --threads 2 --device gpu" in command(alone)
    assert "--ceiling" not in command(alone)
    assert command([row(clock="processor")]).endswith("--threads 2 --clock processor")
    assert command(rows(), "--classes front=1,back=2").endswith("--ceiling --threads 2 --classes front=1,back=2")


def test_minutes_are_those_of_the_clock_that_bounded_the_training() -> None:
    assert training_minutes({0: row(seconds="900"), 1: row(seconds="600")}) == 12.5
    assert training_minutes({0: row(clock="processor", seconds="5000", cpu_seconds="1800")}) == 15.0  # of two threads


def test_screening_and_test_never_stand_in_one_table() -> None:
    others = ({"scored": "validation"}, {"minutes": "10"}, {"threads": "1"}, {"device": "gpu"}, {"clock": "processor"})
    mixed = [*rows(), *(row(**other) for other in others)]
    assert Setting("test", 15.0, 2, "cpu").rows(mixed) == rows()


def test_configurations_are_ordered_by_labels_as_numbers() -> None:
    found = group_rows([row(labels=n) for n in ("all", "16", "4", "8")])
    assert [labels for labels, _ in found] == ["4", "8", "16", "all"]


def test_the_plot_is_drawn_for_whatever_rows_there_are(tmp_path: Any) -> None:
    for name, some in (("all", rows()), ("one", rows()[:1]), ("ceiling", rows()[4:5])):
        write_plot(some, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_for_one_number_of_labels_the_plot_has_a_line_for_each_difference(tmp_path: Any, monkeypatch: Any) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr("foveate.bench.plot.write_forest", lambda estimates, *_: drawn.update(estimates))
    cases = {"a": 0.5, "b": 0.7}
    better = {case: dice + 0.1 for case, dice in cases.items()}
    worse = {case: dice - 0.1 for case, dice in cases.items()}
    some = [with_dice(cases, method="supervised"), with_dice(worse, method="w"), with_dice(better, method="b")]
    write_plot([*some, with_dice(better, method="supervised", labels="all")], tmp_path / "x.png")
    assert [*drawn][-1] == "w"
    assert {name.split(",")[0] for name in drawn} == {"supervised", "w", "b"}
    assert drawn["b"].value == pytest.approx(0.1)
    assert drawn["w"].value == pytest.approx(-0.1)


def test_a_line_for_each_difference_too_where_most_methods_have_one_number_of_labels(
    tmp_path: Any, monkeypatch: Any
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr("foveate.bench.plot.write_forest", lambda estimates, *_: drawn.update(estimates))
    dices = [("supervised", "4", 0.5), ("supervised", "8", 0.6), ("w", "4", 0.4), ("b", "8", 0.9)]
    write_plot([with_dice({"a": d, "b": d}, method=m, labels=n) for m, n, d in dices], tmp_path / "x.png")
    assert {name: each.value for name, each in drawn.items()} == pytest.approx(
        {"4 labels: w": -0.1, "8 labels: b": 0.3}
    ), "each against the baseline with as many labels"
    drawn.clear()
    dices.append(("w", "8", 0.7))
    write_plot([with_dice({"a": d, "b": d}, method=m, labels=n) for m, n, d in dices], tmp_path / "x.png")
    assert not drawn, "two methods of three have curves"
