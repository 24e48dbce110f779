"""Honest confidence: a temperature for class probabilities and a scale for intervals, from validation cases.

Temperature scaling (Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599) divides all logits
by one number T > 0 that minimises the validation cross-entropy; the order of the classes, and so the label, stays.
Departure: Guo et al. minimise the likelihood alone, which sends T to 0 when a few validation cases are all right. Here
one more case counts, whose label is spread evenly over the classes, as Platt (1999) does for two of them: n cases
right give a confidence near n / (n + 1), and with many cases its weight vanishes.

Split conformal prediction (Lei et al. 2018, "Distribution-free predictive inference for regression",
arXiv:1604.04173, section 5.2) takes the ceil((n + 1) coverage)-th smallest of |y - f(x)| / sigma(x) as the half width
in units of sigma; a new case that is exchangeable with the n then lies inside with at least that probability.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOWEST, HIGHEST = 0.05, 20.0  # of the temperature
FEWEST = 5  # validation cases: fewer say too little of one number (docs/benchmarks.md has what they say)
_HALVINGS = 50


def fit_temperature(logits: Tensor, targets: Tensor, exclusive: bool = True) -> float | None:
    """The temperature T of ``probabilities(logits, T)`` that fits the targets best, in [LOWEST, HIGHEST].

    logits: ``[N, K]``. targets: ``[N, K]``, one-hot or soft rows, or with ``exclusive`` False 0 or 1 of each label by
    itself; nan is unknown and left out. The loss is convex in 1/T, so halving its interval finds the one minimum.
    None with fewer than FEWEST cases. Raises ValueError when the shapes differ or a logit is not
    finite.
    """
    if logits.shape != targets.shape or logits.ndim != 2:
        raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}: both must be [N, K]")
    z, y = logits.detach().double().cpu(), targets.detach().double().cpu()
    if not z.isfinite().all():
        raise ValueError("a logit is not finite")
    known = ~y.isnan()
    if exclusive:
        known = known.all(dim=1, keepdim=True).expand_as(y)
    cases = int(known.any(dim=1).sum())
    if cases < FEWEST:
        return None
    even = 1 / y.shape[1] if exclusive else 0.5
    y = torch.where(known, (cases * y.nan_to_num() + even) / (cases + 1), 0.0)

    def slope(inverse: float) -> float:
        """Derivative of the cross-entropy by 1/T: expected minus observed logit."""
        guess = (z * inverse).softmax(dim=1) if exclusive else (z * inverse).sigmoid()
        return float(((guess - y) * z * known).sum())

    low, high = 1 / HIGHEST, 1 / LOWEST
    if slope(low) >= 0:  # the logits say nothing, or the wrong thing; all zero is no reason to change them
        return HIGHEST if slope(low) > 0 else 1.0
    if slope(high) <= 0:
        return LOWEST
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def interval_scale(scores: Tensor, coverage: float = 0.9) -> float:
    """Half width of an interval in units of sigma: ``f(x) - scale * sigma(x)`` to ``f(x) + scale * sigma(x)``.

    scores: ``[N]`` residuals over sigma of validation cases, of either sign; nan is left out. coverage: in (0, 1).
    Infinite with fewer than coverage / (1 - coverage) cases: then no finite width is sure to hold that many.
    Raises ValueError for an infinite score.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage {coverage} is not between 0 and 1")
    sizes = scores.detach().double().cpu().flatten().abs()
    sizes = sizes[~sizes.isnan()].sort().values
    if sizes.isinf().any():
        raise ValueError("a residual over sigma is not finite")
    # The product may lie above the whole number by rounding only: 10 * 0.9 must stay 9.
    rank = math.ceil((len(sizes) + 1) * coverage - 1e-9)
    return float(sizes[rank - 1]) if rank <= len(sizes) else math.inf
