"""Validation Dice during training: it is shown and chooses nothing."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from foveate.batches.prepare import PreparedCohort
from foveate.predict.predictor import Predictor


class Validation:
    """Mean Dice of a predictor of held-back cases, on the prepared grid."""

    def __init__(self, predictor: Predictor, prepared: PreparedCohort, cases: Iterable[str]) -> None:
        self.predictor = predictor
        self.cases = [prepared[name] for name in cases]

    def __call__(self) -> float:
        scores = []
        for case in self.cases:
            assert case.label is not None
            predicted = self.predictor.predict_prepared(case.image)
            scores.append(self.predictor.task.mean_dice(predicted, np.array(case.label)))
        return float(np.nanmean(scores))
