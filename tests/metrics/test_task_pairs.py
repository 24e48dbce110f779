"""Paired differences of two models: resampled together, and nothing where they answer alike."""

import numpy as np
import pytest

from foveate.metrics.bootstrap import draw_weights
from foveate.metrics.classification import classification_scores
from foveate.metrics.tables import score_classes
from foveate.metrics.task_pairs import paired

NAMES = ("a", "b", "c")
RANDOM = np.random.default_rng(0)
TRUTH = np.eye(3)[RANDOM.integers(0, 3, 60)]
CASES = [f"case{i}" for i in range(60)]
PATIENTS = [f"patient{i // 2}" for i in range(60)]


def answers(skill):
    logits = RANDOM.normal(0, 1, (60, 3)) + skill * TRUTH
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def scored(probabilities, cases=CASES):
    return score_classes(cases, PATIENTS, TRUTH, probabilities, NAMES)


def test_a_model_is_no_better_than_itself():
    model = scored(answers(1.0))
    assert paired([model], [model], "macro_f1") == (0, 0, 0)


def test_every_resample_draws_the_same_patients_for_both():
    ours, theirs = [answers(2.0), answers(1.5)], [answers(1.0), answers(1.2)]
    found = paired([scored(p) for p in ours], [scored(p) for p in theirs], "macro_f1")
    weights = draw_weights(PATIENTS)

    def mean(probabilities):
        scores = [classification_scores(TRUTH, p, NAMES, weights, True)["macro_f1"] for p in probabilities]
        return np.mean(scores, axis=0)

    low, high = np.percentile(mean(ours) - mean(theirs), [2.5, 97.5])
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)
    once = np.ones((1, 60))
    values = [classification_scores(TRUTH, p, NAMES, once, True)["macro_f1"][0] for p in (*ours, *theirs)]
    assert found.value == pytest.approx((values[0] + values[1] - values[2] - values[3]) / 2)


def test_models_that_were_scored_on_other_cases_are_not_compared():
    with pytest.raises(ValueError, match="same cases"):
        paired([scored(answers(1.0))], [scored(answers(1.0), [f"other{i}" for i in range(60)])], "macro_f1")
