"""Progress and learning rate fit the bound, in steps exactly and in seconds on a clock that this test turns."""

import itertools

import pytest

from foveate.config import OptimiserConfig
from foveate.engine import schedule as module
from foveate.engine.schedule import Schedule

CONFIG = OptimiserConfig(learning_rate=0.1, warmup_steps=4, power=0.9)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_under_a_bound_in_steps_progress_is_exact(clock):
    schedule = Schedule(7, None)
    seen = []
    while not schedule.done:
        seen.append(schedule.progress)
        clock[0] += 100.0
        schedule.stepped(100.0)
    assert seen == [step / 7 for step in range(7)]
    assert (schedule.progress, schedule.step, schedule.total_steps) == (1.0, 7, 7)
    assert schedule.learning_rate(CONFIG) == 0.0


def test_the_learning_rate_warms_up_and_falls_to_zero():
    schedule = Schedule(40, None)
    rates = []
    for _ in range(40):
        rates.append(schedule.learning_rate(CONFIG))
        schedule.stepped(0.1)
    expected = [0.1 * min((s + 1) / 4, 1) * (1 - s / 40) ** 0.9 for s in range(40)]
    assert rates == pytest.approx(expected)
    assert rates[0] == pytest.approx(0.1 / 4)
    assert rates[1] > rates[0]
    assert all(a > b > 0 for a, b in itertools.pairwise(rates[4:]))
    assert schedule.learning_rate(CONFIG) == 0.0
    assert Schedule(5, None).learning_rate(OptimiserConfig(learning_rate=0.1, warmup_steps=0)) == 0.1


@pytest.mark.parametrize("slow_down", [1.0, 5.0], ids=["steady", "slower half-way"])
def test_under_a_bound_in_seconds_training_ends_at_it_with_the_rate_near_zero(clock, slow_down):
    schedule = Schedule(None, 60.0, spent=5.0)
    progress, rates = [], []
    while not schedule.done:
        progress.append(schedule.progress)
        rates.append(schedule.learning_rate(CONFIG))
        step = 0.5 * (slow_down if schedule.progress > 0.5 else 1.0)
        clock[0] += step
        schedule.stepped(step)
    assert progress[0] == pytest.approx(5 / 60)
    assert all(a < b for a, b in itertools.pairwise(progress))
    assert 60 - slow_down <= schedule.elapsed <= 60 + 0.25 * slow_down  # the pace lags behind a sudden change
    assert rates[-1] < 0.12 * max(rates)
    clock[0] += 100
    assert schedule.progress == 1.0
    assert schedule.learning_rate(CONFIG) == 0.0
    assert schedule.seconds_left == 0.0


def test_what_is_left_is_estimated_from_the_pace(clock):
    by_seconds, by_steps = Schedule(None, 100.0), Schedule(50, None)
    assert by_seconds.total_steps == 0
    for _ in range(10):
        clock[0] += 2.0
        by_seconds.stepped(2.0)
        by_steps.stepped(2.0)
    assert (by_seconds.seconds_left, by_seconds.total_steps) == (80.0, 50)
    assert by_steps.seconds_left == pytest.approx(80.0)


@pytest.mark.parametrize("bound", [(50, None), (None, 100.0)], ids=["steps", "seconds"])
def test_a_restored_schedule_goes_on_where_it_was(clock, bound):
    schedule = Schedule(*bound)
    for _ in range(12):
        clock[0] += 1.5
        schedule.stepped(1.5)
    kept = schedule.state()
    expected = (schedule.step, schedule.progress, schedule.learning_rate(CONFIG), schedule.seconds_left, schedule.pace)
    clock[0] += 5000.0  # the time between two processes does not count
    other = Schedule(*bound, spent=30.0)
    other.restore(kept)
    found = (other.step, other.progress, other.learning_rate(CONFIG), other.seconds_left, other.pace)
    assert found == pytest.approx(expected)


def test_a_schedule_that_has_not_begun_survives_too(clock):
    other = Schedule(50, None)
    other.restore(Schedule(50, None).state())
    assert (other.step, other.pace) == (0, None)
