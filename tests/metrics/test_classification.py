"""Classification scores against scikit-learn and brute force: ties, absent classes, weights, unknown labels."""

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from foveate.metrics.bootstrap import draw_weights
from foveate.metrics.classification import (
    bins,
    calibration_error,
    classification_scores,
    confusion,
    decide,
    ranking,
)

NAMES = ("a", "b", "c", "d")


def drawn(cases: int, seed: int = 0, classes: int = 4, digits: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """One-hot targets ``[N, K]`` and probabilities rounded so that many are equal."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, cases)
    logits = rng.normal(size=(cases, classes)) + 1.5 * np.eye(classes)[label]
    return np.eye(classes)[label], np.round(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), digits)


def scored(targets: np.ndarray, probabilities: np.ndarray, exclusive: bool = True) -> dict[str, float]:
    found = classification_scores(
        targets, probabilities, NAMES[: targets.shape[1]], np.ones((1, len(targets))), exclusive
    )
    return {key: float(value[0]) for key, value in found.items()}


@pytest.mark.parametrize("seed", range(5))
def test_exclusive_classes_as_scikit_learn_has_them(seed: int) -> None:
    targets, probabilities = drawn(60, seed)
    scores = scored(targets, probabilities)
    true, guess = targets.argmax(1), probabilities.argmax(1)
    assert scores["accuracy"] == pytest.approx(reference.accuracy_score(true, guess))
    assert scores["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(true, guess))
    assert scores["macro_f1"] == pytest.approx(reference.f1_score(true, guess, average="macro"))
    assert scores["auroc"] == pytest.approx(reference.roc_auc_score(targets, probabilities, average="macro"))
    assert scores["auprc"] == pytest.approx(reference.average_precision_score(targets, probabilities))
    assert scores["brier"] == pytest.approx(((probabilities - targets) ** 2).sum(1).mean())
    each = reference.f1_score(true, guess, average=None)
    assert [scores[f"f1/{name}"] for name in NAMES] == pytest.approx(list(each))
    for k, name in enumerate(NAMES):
        assert scores[f"sensitivity/{name}"] == pytest.approx(reference.recall_score(true == k, guess == k))
        assert scores[f"specificity/{name}"] == pytest.approx(reference.recall_score(true != k, guess != k))
    assert np.array_equal(confusion(targets, decide(probabilities, True)), reference.confusion_matrix(true, guess))


@pytest.mark.parametrize("seed", range(5))
def test_several_labels_as_scikit_learn_has_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = (rng.random((50, 3)) < 0.4).astype(float)
    probabilities = np.round(np.clip(0.5 * targets + 0.6 * rng.random((50, 3)), 0, 1), 1)
    scores, guess = scored(targets, probabilities, exclusive=False), probabilities > 0.5
    assert scores["exact_match"] == pytest.approx(reference.accuracy_score(targets, guess))
    assert scores["accuracy"] == pytest.approx((guess == targets).mean())
    assert scores["macro_f1"] == pytest.approx(reference.f1_score(targets, guess, average="macro"))
    assert scores["auroc"] == pytest.approx(reference.roc_auc_score(targets, probabilities))
    assert scores["auprc"] == pytest.approx(reference.average_precision_score(targets, probabilities))
    balanced = [reference.balanced_accuracy_score(targets[:, k], guess[:, k]) for k in range(3)]
    assert scores["balanced_accuracy"] == pytest.approx(np.mean(balanced))
    brier = [reference.brier_score_loss(targets[:, k], probabilities[:, k]) for k in range(3)]
    assert scores["brier"] == pytest.approx(np.mean(brier))


def test_every_draw_is_the_score_of_the_repeated_cases() -> None:
    targets, probabilities = drawn(30, 3)
    weights = draw_weights([f"patient {i // 2}" for i in range(30)])[:40]
    drawn_scores = classification_scores(targets, probabilities, NAMES, weights)
    for number, row in enumerate(weights):
        again = np.repeat(np.arange(30), row.astype(int))
        for key, value in scored(targets[again], probabilities[again]).items():
            assert drawn_scores[key][number] == pytest.approx(value, nan_ok=True), key


@pytest.mark.parametrize("seed", range(4))
def test_sensitivity_at_a_specificity_is_the_best_threshold_that_occurs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, scores = rng.random(80) < 0.4, np.round(rng.random(80), 1 + seed % 2)
    scores = np.round(scores + 0.3 * true, 2)
    best = max(
        (scores[true] >= threshold).mean()
        for threshold in [*np.unique(scores), math.inf]
        if (scores[~true] < threshold).mean() >= 0.95
    )
    found = ranking(true.astype(float), scores, np.ones((1, 80)))
    assert found.sensitivity[0] == pytest.approx(best)


def test_a_specificity_of_exactly_the_limit_counts() -> None:
    # One of twenty negatives lies above the lowest positive: specificity 0.95 to the digit.
    true = np.array([1.0] * 3 + [0.0] * 20)
    scores = np.array([0.9, 0.8, 0.7, 0.75] + [0.1] * 19)
    assert ranking(true, scores, np.ones((1, 23))).sensitivity[0] == 1


def test_equal_scores_count_half() -> None:
    found = ranking(np.array([1.0, 0, 1, 0]), np.full(4, 0.5), np.ones((1, 4)))
    assert (found.auroc[0], found.auprc[0], found.sensitivity[0]) == (0.5, 0.5, 0)


def test_a_class_that_no_case_shows_stays_out_of_the_means() -> None:
    targets, probabilities = drawn(40, 2, classes=3)
    wider = np.zeros((40, 4))
    without = scored(targets, probabilities)
    wider[:, :3] = targets
    scores = scored(wider, np.column_stack([probabilities, np.zeros(40)]))
    assert math.isnan(scores["f1/d"])
    assert math.isnan(scores["auroc/d"])
    for key in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "auprc", "brier", "ece"):
        assert scores[key] == pytest.approx(without[key]), key
    # Called where it is not, it costs: its F1 is 0, as in scikit-learn.
    probabilities = np.column_stack([probabilities * 0.1, np.full(40, 0.9)])
    assert scored(wider, probabilities)["macro_f1"] == scored(wider, probabilities)["f1/d"] == 0


def test_one_class_alone_has_an_accuracy_and_no_ranking() -> None:
    scores = scored(np.eye(2)[[0, 0, 0]], np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]]))
    assert scores["accuracy"] == scores["balanced_accuracy"] == pytest.approx(2 / 3)
    assert math.isnan(scores["auroc"])
    assert math.isnan(scores["sensitivity_at_95_specificity"])


def test_a_label_that_is_not_known_counts_for_nothing() -> None:
    rng = np.random.default_rng(5)
    targets = (rng.random((40, 2)) < 0.5).astype(float)
    probabilities = rng.random((40, 2))
    hidden = targets.copy()
    hidden[25:, 1] = np.nan
    scores = scored(hidden, probabilities, exclusive=False)
    first = scored(targets[:, :1], probabilities[:, :1], exclusive=False)
    second = scored(targets[:25, 1:], probabilities[:25, 1:], exclusive=False)
    for key in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "auprc", "brier", "ece"):
        assert scores[key] == pytest.approx((first[key] + second[key]) / 2), key


def test_calibration_error_by_hand() -> None:
    # Bin (14/15, 1]: confidence 0.95, right 3 of 4. Bin (9/15, 10/15]: confidence 0.65, right 1 of 1.
    sure, right = np.array([0.95] * 4 + [0.65]), np.array([1.0, 1, 1, 0, 1])
    expected = 4 / 5 * abs(0.95 - 0.75) + 1 / 5 * abs(0.65 - 1)
    assert calibration_error(sure, right, np.ones((1, 5)))[0] == pytest.approx(expected)
    assert scored(np.eye(2)[[0, 1]], np.array([[1.0, 0], [0, 1.0]]))["ece"] == 0


def test_bins_are_closed_above() -> None:
    edges = np.array([0.0, 1 / 15, 1 / 15 + 1e-6, 14 / 15, 0.6, 1.0])
    assert bins(edges).argmax(axis=1).tolist() == [0, 0, 1, 13, 8, 14]
