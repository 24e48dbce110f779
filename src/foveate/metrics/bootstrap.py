"""Intervals by resampling cases, whole patients at a time (Efron's percentile bootstrap, seeded)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
SEED = 0


def class_mean(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean over cases of each class, then over classes: one number per row of weights, ``[draws]``.

    values: ``[cases, classes]``, nan where a class does not apply. weights: ``[draws, cases]``; None weighs
    every case once. A draw in which no class applies is nan.
    """
    weights = np.ones((1, len(values))) if weights is None else weights
    valid = np.isfinite(values)
    seen = weights @ valid  # [draws, classes]
    total = weights @ np.where(valid, values, 0.0)
    means = np.divide(total, seen, out=np.full_like(total, np.nan), where=seen > 0)
    applies = np.isfinite(means)
    number = applies.sum(axis=1)
    return np.divide(np.where(applies, means, 0).sum(axis=1), number, out=np.full(len(means), np.nan), where=number > 0)


def draw_weights(patients: Sequence[str]) -> np.ndarray:
    """How often each case counts in each resample of the patients: float ``[RESAMPLES, cases]``, always the same."""
    _, group = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    number = int(group.max()) + 1 if len(group) else 0
    if number == 0:
        return np.zeros((RESAMPLES, 0))
    rng = np.random.default_rng(SEED)
    draws = rng.multinomial(number, np.full(number, 1 / number), size=RESAMPLES)  # [RESAMPLES, patients]
    return draws[:, group].astype(float)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the resampled statistic; nan where no draw has a value."""
    draws = draws[np.isfinite(draws)]
    if draws.size == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
