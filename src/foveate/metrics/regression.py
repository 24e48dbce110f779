"""How good predicted values and their intervals are, for all resamples of the patients at once.

As in ``classification``: ``weights`` ``[draws, N]`` says how often each case counts, and every score is ``[draws]``.
"""

from __future__ import annotations

import numpy as np

HARDLY = 1e-6  # of the variance of all values: of a draw with less, R squared says how small it is, and nothing else


def regression_scores(
    values: np.ndarray, predicted: np.ndarray, low: np.ndarray, high: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Mean absolute error and root mean square error (unit of the values), R squared, and of the intervals the share
    that holds the true value and the mean width.

    values, predicted, low, high: ``[N]``; nan in low and high where there is no interval. R squared is nan where the
    values of a draw do not differ, as in a draw of one case, or hardly, as where a draw has one patient of many cases.
    """
    number = weights.sum(axis=1)
    error = predicted - values
    absolute, square = _over(weights @ np.abs(error), number), _over(weights @ error**2, number)
    # Around the overall mean, so that values far from zero lose no digits in the difference.
    centred = values - values.mean() if len(values) else values
    mean = _over(weights @ centred, number)
    spread = ((centred - mean[:, None]) ** 2 * weights).sum(axis=1) / np.maximum(number, 1)
    there = np.isfinite(low) & np.isfinite(high)
    given = weights @ there
    return {
        "mae": absolute,
        "rmse": np.sqrt(square),
        "r2": 1 - _over(square, np.where(spread > HARDLY * np.mean(centred**2), spread, 0.0)),
        "coverage": _over(weights @ (there & (low <= values) & (values <= high)), given),
        "interval_width": _over(weights @ np.where(there, high - low, 0.0), given),
    }


def _over(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full(np.shape(over), np.nan), where=under > 0)
