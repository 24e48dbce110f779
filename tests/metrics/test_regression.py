"""Regression scores against scikit-learn, draw by draw, and intervals by hand."""

import numpy as np
import pytest
from sklearn import metrics as reference

from foveate.metrics.bootstrap import draw_weights
from foveate.metrics.regression import regression_scores
from foveate.metrics.tables import score_values


def test_every_draw_as_scikit_learn_has_it() -> None:
    rng = np.random.default_rng(0)
    values = 1e6 + rng.normal(size=25)  # far from zero: squares must not cancel
    predicted = values + 0.5 * rng.normal(size=25)
    low, high = predicted - 0.6, predicted + 0.6
    weights = np.concatenate([np.ones((1, 25)), draw_weights([str(i // 3) for i in range(25)])[:30]])
    scores = regression_scores(values, predicted, low, high, weights)
    for number, row in enumerate(weights):
        again = np.repeat(np.arange(25), row.astype(int))
        true, guess = values[again], predicted[again]
        assert scores["mae"][number] == pytest.approx(reference.mean_absolute_error(true, guess))
        assert scores["rmse"][number] == pytest.approx(reference.root_mean_squared_error(true, guess))
        assert scores["r2"][number] == pytest.approx(reference.r2_score(true, guess), abs=1e-6)
        assert scores["coverage"][number] == pytest.approx((np.abs(true - guess) <= 0.6).mean())
        assert scores["interval_width"][number] == pytest.approx(1.2, abs=1e-6)


def test_intervals_that_are_not_given_do_not_count() -> None:
    nan = np.nan
    low, high = np.array([0.0, nan, 2.5]), np.array([1.0, nan, 4.5])
    scores = regression_scores(np.array([1.0, 2, 2]), np.array([1.0, 2, 3]), low, high, np.ones((1, 3)))
    assert scores["coverage"][0] == 0.5  # the end of an interval is inside it
    assert scores["interval_width"][0] == 1.5
    assert np.isnan(regression_scores(low[:1], low[:1], low[1:2], high[1:2], np.ones((1, 1)))["coverage"][0])


@pytest.mark.parametrize(("patients", "there"), [(2, False), (3, False), (5, True)])
def test_r_squared_of_few_patients_with_several_cases(patients: int, there: bool) -> None:
    """At least one in nine resamples of two or three patients is of one alone, whose values hardly differ."""
    rng = np.random.default_rng(0)
    values = np.repeat(np.arange(patients) * 10.0, 3) + 1e-9 * rng.normal(size=3 * patients)
    predicted = values + rng.normal(size=len(values))
    names = [str(i // 3) for i in range(len(values))]
    found = score_values(names, names, values, predicted, predicted - 1, predicted + 1)
    assert 0.9 < found["r2"].value < 1
    if there:
        assert 0 < found["r2"].low < found["r2"].value < found["r2"].high < 1
    else:
        assert np.isnan([found["r2"].low, found["r2"].high]).all()
    assert 0 < found["mae"].low < found["mae"].high


def test_values_that_do_not_differ_have_no_r_squared() -> None:
    one = np.array([3.0, 3.0])
    scores = regression_scores(one, one + 1, one, one + 2, np.ones((1, 2)))
    assert scores["mae"][0] == 1
    assert np.isnan(scores["r2"][0])
