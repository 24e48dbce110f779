"""Temperature scaling and conformal intervals: the label stays, a known answer is found, the coverage holds."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from foveate.tasks.calibration import FEWEST, HIGHEST, LOWEST, fit_temperature, interval_scale


def drawn(cases: int, classes: int, exclusive: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    """True logits and targets drawn from the probabilities that they stand for."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(cases, classes, generator=generator)
    if exclusive:
        label = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        return logits, functional.one_hot(label, classes).float()
    return logits, torch.bernoulli(logits.sigmoid(), generator=generator)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature: float, exclusive: bool) -> None:
    logits, targets = drawn(20000, 4, exclusive)
    assert fit_temperature(temperature * logits, targets, exclusive) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("exclusive", [True, False])
def test_it_is_the_minimum_of_the_cross_entropy(exclusive: bool) -> None:
    logits, targets = drawn(400, 3, exclusive, seed=1)
    even = 1 / 3 if exclusive else 0.5
    smooth = (400 * targets.double() + even) / 401  # the one case more that the docstring speaks of

    def loss(temperature: float) -> float:
        scaled = 5 * logits.double() / temperature
        if exclusive:
            return float(functional.cross_entropy(scaled, smooth))
        return float(functional.binary_cross_entropy_with_logits(scaled, smooth))

    found = fit_temperature(5 * logits, targets, exclusive)
    assert loss(found) < min(loss(found * 1.01), loss(found / 1.01))
    assert loss(found) < loss(1.0)


def test_the_label_of_no_case_changes() -> None:
    logits, targets = drawn(200, 5, True)
    temperature = fit_temperature(7 * logits, targets)
    assert temperature > 2
    assert torch.equal((7 * logits / temperature).argmax(1), logits.argmax(1))


def test_cases_that_are_all_right_do_not_make_it_certain() -> None:
    label = torch.arange(30) % 3
    targets = functional.one_hot(label, 3).float()
    temperature = fit_temperature(20 * targets, targets)
    confidence = (20 * targets / temperature).softmax(1).max(1).values
    assert confidence.mean() == pytest.approx(1 - (2 / 3) / 31, abs=1e-4)


def test_the_temperature_is_bounded_and_silent_logits_leave_it() -> None:
    targets = functional.one_hot(torch.arange(40) % 2, 2).float()
    assert fit_temperature(1 - targets, targets) == HIGHEST  # wrong throughout
    assert fit_temperature(1e-3 * targets, targets) == LOWEST
    assert fit_temperature(torch.zeros(40, 2), targets) == 1.0


def test_unknown_targets_count_for_nothing() -> None:
    logits, targets = drawn(60, 3, False)
    full = fit_temperature(logits[:40], targets[:40], exclusive=False)
    hidden = targets.clone()
    hidden[40:] = float("nan")
    assert fit_temperature(logits, hidden, exclusive=False) == pytest.approx(full, rel=1e-9)


def test_too_few_cases_give_no_temperature() -> None:
    logits, targets = drawn(FEWEST - 1, 3, True)
    assert fit_temperature(9 * logits, targets) is None


@pytest.mark.parametrize("temperature", [2.0, 4.0])
def test_the_fewest_cases_that_count_are_better_than_none(temperature: float) -> None:
    logits, targets = drawn(40 * FEWEST, 4, True, seed=5)
    others, labels = drawn(20000, 4, True, seed=6)

    def loss(taken: float) -> float:
        return float(functional.cross_entropy(temperature * others / taken, labels))

    parts = zip(logits.split(FEWEST), targets.split(FEWEST), strict=True)
    found = [loss(fit_temperature(temperature * few, right)) for few, right in parts]
    assert sum(found) / len(found) < loss(1.0) - 0.1
    assert max(found) < loss(temperature) + 0.25, "the even case keeps the worst of forty draws in bounds"


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        fit_temperature(torch.full((20, 2), math.inf), torch.eye(2).repeat(10, 1))


def test_the_scale_is_the_finite_sample_quantile() -> None:
    scores = torch.tensor([-9.0, 1, 2, 3, 4, 5, 6, 7, 8])
    assert interval_scale(scores, 0.9) == 9  # 10 * 0.9 = 9th smallest
    assert interval_scale(scores, 0.5) == 5
    assert interval_scale(torch.cat([scores, torch.tensor([math.nan])]), 0.89) == 9


def test_the_coverage_holds_on_exchangeable_cases() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(4000, 20, generator=generator).exp()  # no normal distribution: 19 cases, then a new one
    inside = [row[19] <= interval_scale(row[:19], 0.9) for row in scores]
    assert sum(map(float, inside)) / len(inside) == pytest.approx(0.9, abs=0.015)  # exactly 18 / 20


def test_with_too_few_cases_no_width_is_sure() -> None:
    assert interval_scale(torch.arange(8.0), 0.9) == math.inf
    assert interval_scale(torch.arange(9.0), 0.9) == 8
    assert interval_scale(torch.empty(0), 0.9) == math.inf
