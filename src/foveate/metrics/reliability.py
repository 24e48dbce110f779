"""Reliability: of the cases with a certain confidence, the share that is right (Niculescu-Mizil and Caruana 2005)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foveate.metrics.bootstrap import estimates
from foveate.metrics.classification import BINS, bins


def reliability(confidence: np.ndarray, right: np.ndarray, patients: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each of the BINS bins that holds a case: ends, number, mean confidence, share right with interval.

    confidence, right: ``[N]``, right 0 or 1. patients: of the N.
    """
    member = bins(confidence)
    held = np.flatnonzero(member.any(axis=0))

    def shares(weights: np.ndarray) -> dict[str, np.ndarray]:
        total = weights @ member
        with np.errstate(invalid="ignore"):  # a draw may leave a bin empty
            share = (weights @ (member * right[:, None])) / total
        return {str(b): share[:, b] for b in held}

    found = estimates(shares, patients)
    return [
        {
            "low": b / BINS,
            "high": (b + 1) / BINS,
            "count": int(member[:, b].sum()),
            "confidence": float(confidence[member[:, b]].mean()),
            "right": found[str(b)].value,
            "right_interval": [found[str(b)].low, found[str(b)].high],
        }
        for b in map(int, held)
    ]
