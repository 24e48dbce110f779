"""Whether one model is better than another at a task, on the same cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foveate.metrics.bootstrap import Estimate, draw_weights, interval
from foveate.metrics.task_result import TaskEvaluation


def paired(ours: Sequence[TaskEvaluation], theirs: Sequence[TaskEvaluation], key: str) -> Estimate:
    """Mean over pairs, such as seeds, of our score less theirs, with its interval over patients: every resample draws
    the same patients for both. Raises ValueError when not all were scored on the same cases."""
    first = ours[0]
    if any(found.ids != first.ids or found.resampled is None for found in (*ours, *theirs)):
        raise ValueError("the evaluations are not of the same cases")
    patient = {case["case"]: case["patient"] for case in first.cases}
    weights = draw_weights([patient[name] for name in first.ids])
    pairs = list(zip(ours, theirs, strict=True))
    value = float(np.mean([mine[key].value - other[key].value for mine, other in pairs]))
    draws = [mine.resampled(weights)[key] - other.resampled(weights)[key] for mine, other in pairs]  # type: ignore[misc]
    return Estimate(value, *interval(np.mean(draws, axis=0)))
