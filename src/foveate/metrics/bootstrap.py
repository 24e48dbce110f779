"""Intervals by resampling cases, whole patients at a time (Efron's percentile bootstrap, seeded)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
SEED = 0
INSIDE = 0.95  # share of the draws that an interval holds
_CHUNK = 2**17  # draws times cases at once: what a score holds of them then fits a cache


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
    return next(_draws(patients, RESAMPLES))


def _draws(patients: Sequence[str], step: int) -> Iterator[np.ndarray]:
    """``draw_weights``, ``step`` draws at a time: for 100,000 cases it would take gigabytes at once."""
    _, group = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    number = int(group.max()) + 1 if len(group) else 0
    rng = np.random.default_rng(SEED)
    for start in range(0, RESAMPLES, step):
        draws = min(step, RESAMPLES - start)
        if number == 0:
            yield np.zeros((draws, 0))
        else:
            counts = rng.multinomial(number, np.full(number, 1 / number), size=draws)  # [draws, patients]
            yield counts[:, group].astype(float)


def interval(draws: np.ndarray, share: float = 0.0) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the resampled statistic; nan where no draw has a value, or less than ``share``
    of them."""
    number = len(draws)
    draws = draws[np.isfinite(draws)]
    if draws.size == 0 or draws.size < share * number:
        return float("nan"), float("nan")
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


class Estimate(NamedTuple):
    """A score with its 95% interval; nan where it does not apply."""

    value: float
    low: float
    high: float


def estimates(
    scores: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    patients: Sequence[str],
    shifted: Collection[str] = (),
    unbounded: Collection[str] = (),
) -> dict[str, Estimate]:
    """Every score by its key, with its interval over patients; no interval with fewer than two of them.

    scores: weights ``[draws, N]`` -> key -> ``[draws]``. patients: of the N cases. shifted: scores that noise can only
    raise. Resampling adds noise of its own to them, so their draws are moved down to have the score as their mean.
    unbounded: scores that grow without end towards the draws that have none. Where those are more than the interval
    leaves outside, the others do not say where it ends, and there is none.
    """
    values = {key: float(value[0]) for key, value in scores(np.ones((1, len(patients)))).items()}
    if len(set(patients)) < 2:
        return {key: Estimate(value, float("nan"), float("nan")) for key, value in values.items()}
    parts = [scores(weights) for weights in _draws(patients, max(1, _CHUNK // len(patients)))]
    found = {}
    for key, value in values.items():
        draws = np.concatenate([part[key] for part in parts])
        if key in shifted:
            draws = np.maximum(draws - np.nanmean(draws) + value, 0.0)
        found[key] = Estimate(value, *interval(draws, INSIDE if key in unbounded else 0.0))
    return found
