"""How good class probabilities are, for all resamples of the patients at once.

Every function takes ``weights`` ``[draws, N]``, how often each case counts in each draw, and gives a number for each
draw (``[draws]``), or one a class (``[draws, K]``): so the bootstrap is a few matrix products and cumulative sums.
What a draw cannot say, such as the sensitivity to a class that it does not show, is nan and stays out of the means
over classes. Where scikit-learn has the measure, the numbers are its numbers; docs/evaluate.md defines each.

Brier 1950, "Verification of forecasts expressed in terms of probability"; Guo et al. 2017 (arXiv:1706.04599) for the
expected calibration error, Kull et al. 2019 (arXiv:1910.12656) for its class-wise form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BINS = 15
SPECIFICITY = 0.95
_ROUNDING = 1e-9  # 1 - 0.95 is not 0.05: a rate of exactly the limit must not fall out

# Sums of absolute gaps: noise only adds to them, so resampling, which adds noise, shifts them (see ``bootstrap``).
SHIFTED = ("ece", "classwise_ece")


def classification_scores(
    targets: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], weights: np.ndarray, exclusive: bool = True
) -> dict[str, np.ndarray]:
    """Every score ``[draws]`` by its key; ``f1/glioma`` is that of one class against all the others.

    targets: ``[N, K]`` 0 or 1, with ``exclusive`` a single 1 a row; otherwise nan where a label is not known.
    probabilities: ``[N, K]``. classes: their K names. weights: ``[draws, N]``.
    """
    predicted = decide(probabilities, exclusive)
    rates = class_rates(targets, predicted, weights)
    ranked = [ranking(targets[:, k], probabilities[:, k], weights) for k in range(len(classes))]
    by_class = {
        "f1": rates.f1,
        "sensitivity": rates.sensitivity,
        "specificity": rates.specificity,
        "auroc": np.stack([each.auroc for each in ranked], axis=1),
        "auprc": np.stack([each.auprc for each in ranked], axis=1),
        "sensitivity_at_95_specificity": np.stack([each.sensitivity for each in ranked], axis=1),
    }
    balanced = rates.sensitivity if exclusive else (rates.sensitivity + rates.specificity) / 2
    gaps = [calibration_error(probabilities[:, k], targets[:, k], weights) for k in range(len(classes))]
    classwise = mean_over_classes(np.stack(gaps, axis=1))
    known = np.isfinite(targets)
    square = _ratio(weights @ np.where(known, (probabilities - targets) ** 2, 0.0), weights @ known)
    right = (predicted == targets).all(axis=1)
    out = {
        "accuracy": _ratio(weights @ right, weights.sum(axis=1)) if exclusive else mean_over_classes(rates.right),
        "balanced_accuracy": mean_over_classes(balanced),
        "macro_f1": mean_over_classes(rates.f1),
        "auroc": mean_over_classes(by_class["auroc"]),
        "auprc": mean_over_classes(by_class["auprc"]),
        "sensitivity_at_95_specificity": mean_over_classes(by_class["sensitivity_at_95_specificity"]),
        "brier": square.sum(axis=1) if exclusive else mean_over_classes(square),
    }
    if exclusive:
        out["ece"] = calibration_error(*confidence(targets, probabilities), weights)
        out["classwise_ece"] = classwise
    else:
        out["ece"] = classwise
        complete = known.all(axis=1)
        out["exact_match"] = _ratio(weights @ (right & complete), weights @ complete)
    for name, values in by_class.items():
        out |= {f"{name}/{each}": values[:, k] for k, each in enumerate(classes)}
    return out


def decide(probabilities: np.ndarray, exclusive: bool) -> np.ndarray:
    """What the probabilities ``[N, K]`` say: 1 for the highest of a row (the first of equal ones), or for each above
    one half; bool ``[N, K]``."""
    if not exclusive:
        return np.asarray(probabilities > 0.5)
    return np.asarray(np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None])


def confidence(targets: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of exclusive classes the highest probability of each case and whether its class is right: both ``[N]``."""
    top = probabilities.argmax(axis=1)[:, None]
    return np.take_along_axis(probabilities, top, 1)[:, 0], np.take_along_axis(targets, top, 1)[:, 0]


class Rates(NamedTuple):
    """Of each class against all the others, ``[draws, K]``. right: share of the cases in which both agree."""

    sensitivity: np.ndarray
    specificity: np.ndarray
    f1: np.ndarray
    right: np.ndarray


def class_rates(targets: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> Rates:
    """targets: ``[N, K]`` 0, 1 or nan. predicted: bool ``[N, K]``. weights: ``[draws, N]``.

    F1 is nan where a class is neither there nor predicted, and 0 where it is predicted only.
    """
    known = np.isfinite(targets)
    true, guess = known & (targets == 1), known & predicted
    hits, positive, called = weights @ (true & guess), weights @ true, weights @ guess
    negative = weights @ (known & ~true)
    correct_rest = negative - (called - hits)
    return Rates(
        sensitivity=_ratio(hits, positive),
        specificity=_ratio(correct_rest, negative),
        f1=_ratio(2 * hits, positive + called),
        right=_ratio(hits + correct_rest, positive + negative),
    )


class Ranking(NamedTuple):
    """How well a score puts the cases of a class before the others: each ``[draws]``."""

    auroc: np.ndarray
    auprc: np.ndarray
    sensitivity: np.ndarray


def ranking(targets: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Ranking:
    """Area under the ROC curve, average precision, and the sensitivity at a specificity of at least SPECIFICITY.

    targets: ``[N]`` 0, 1 or nan (left out). scores: ``[N]``, equal ones being told apart by nothing: they enter
    together. weights: ``[draws, N]``. The ROC curve is the trapezoid one (equal scores count half), precision is
    summed in steps, and the sensitivity is the best of those thresholds that occur, with no line drawn between.
    """
    known = np.flatnonzero(np.isfinite(targets))
    order = known[np.argsort(-scores[known], kind="stable")]
    if order.size == 0:
        nothing = np.full(len(weights), np.nan)
        return Ranking(nothing, nothing, nothing)
    ranked, true = scores[order], targets[order] == 1
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of each group of equal scores
    ordered = weights[:, order]
    every = np.cumsum(ordered, axis=1)[:, last]
    hits = np.cumsum(ordered * true, axis=1)[:, last]  # [draws, thresholds]
    alarms = every - hits
    positive, negative = hits[:, -1], alarms[:, -1]
    new_hits, new_alarms = (np.diff(sums, axis=1, prepend=0) for sums in (hits, alarms))
    area = (new_alarms * (hits - new_hits / 2)).sum(axis=1)
    precision = _ratio(hits, every, otherwise=0.0)
    allowed = alarms <= ((1 - SPECIFICITY) * negative * (1 + _ROUNDING))[:, None]
    found = np.where(allowed, hits, 0.0).max(axis=1)
    return Ranking(
        auroc=_ratio(area, positive * negative),
        auprc=_ratio((new_hits * precision).sum(axis=1), positive),
        sensitivity=np.where(negative > 0, _ratio(found, positive), np.nan),
    )


def calibration_error(confidence: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error ``[draws]``: over BINS bins of equal width, how far the mean confidence lies from the
    share that is right, weighed by the number of cases.

    confidence: ``[N]`` in [0, 1]. right: ``[N]`` 0, 1 or nan (left out). weights: ``[draws, N]``.
    """
    member = bins(confidence) & np.isfinite(right)[:, None]
    gap = weights @ np.where(member, (confidence - np.nan_to_num(right))[:, None], 0.0)  # [draws, BINS]
    return _ratio(np.abs(gap).sum(axis=1), weights @ member.any(axis=1))


def bins(confidence: np.ndarray) -> np.ndarray:
    """Which of the BINS bins ``(low, high]`` holds each confidence ``[N]``; 0 lies in the first. bool ``[N, BINS]``."""
    index = np.clip(np.ceil(confidence * BINS - _ROUNDING).astype(int) - 1, 0, BINS - 1)
    return np.asarray(index[:, None] == np.arange(BINS))


def confusion(targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Number of cases by true class (rows) and predicted class: int ``[K, K]``. Both ``[N, K]``, one 1 a row."""
    return np.asarray(targets.astype(int).T @ predicted.astype(int))


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Mean ``[draws]`` of ``[draws, K]`` over the classes that have a number; nan where none has."""
    finite = np.isfinite(values)
    return _ratio(np.where(finite, values, 0.0).sum(axis=1), finite.sum(axis=1))


def _ratio(over: np.ndarray, under: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """``over / under``, and where there is nothing to divide by, ``otherwise``."""
    return np.divide(over, under, out=np.full(np.shape(over), otherwise), where=np.asarray(under) > 0)
