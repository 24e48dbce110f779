"""The scores of one case: every class against its reference, with what a missing structure costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foveate.metrics.overlap import count_pairs
from foveate.metrics.surface import diagonal, surface_scores, union_box

Classes = Mapping[str, int | tuple[int, ...]]
"""Foreground name -> label value, or the values that a region joins."""

METRICS = ("dice", "hd95", "asd", "nsd")

State = Literal["scored", "missing", "spurious", "absent"]


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class in one case. hd95 and asd: mm (pixels for pictures).

    state: ``scored`` both have the structure; ``missing`` the prediction lacks it; ``spurious`` only the
    prediction has it; ``absent`` neither has it, and every score is nan: there was nothing to find.
    """

    dice: float
    hd95: float
    asd: float
    nsd: float
    state: State


ABSENT = ClassScore(float("nan"), float("nan"), float("nan"), float("nan"), "absent")


@dataclass(frozen=True)
class CaseScores:
    """One row of the per-case table. predicted: False when there was no prediction file at all."""

    id: str
    patient: str
    classes: Mapping[str, ClassScore]
    predicted: bool = True

    def mean(self, metric: str = "dice") -> float:
        """Mean over the classes that apply to this case; nan when none does."""
        values = [getattr(score, metric) for score in self.classes.values() if score.state != "absent"]
        return float(np.mean(values)) if values else float("nan")


def score_case(
    prediction: np.ndarray | None,
    reference: np.ndarray,
    spacing: Sequence[float],
    classes: Classes,
    *,
    ignore: Collection[int] = (255,),
    tolerance: float = 1.0,
) -> dict[str, ClassScore]:
    """Scores of every class of one case.

    prediction, reference: integer ``[*S]`` on one grid, with no values but 0, those of ``classes`` and, in the
    reference, those of ``ignore``; None as prediction counts as empty. spacing, tolerance: mm per axis, mm.
    Ignored voxels become background in both. A structure that only one of the two has costs Dice 0, surface
    Dice 0 and both distances the length of the image's diagonal; one that neither has is nan.
    """
    prediction = np.zeros_like(reference) if prediction is None else prediction
    if reference.shape != prediction.shape:
        raise ValueError(f"shapes differ: {prediction.shape} and {reference.shape}")
    members = {name: (value,) if isinstance(value, int) else tuple(value) for name, value in classes.items()}
    values = [0, *sorted({value for group in members.values() for value in group})]
    worst = diagonal(reference.shape, spacing)
    ignored = np.isin(reference, list(ignore)) if reference.size and reference.max() >= min(ignore, default=1) else None
    if ignored is not None and ignored.any():
        prediction, reference = (np.where(ignored, 0, labels) for labels in (prediction, reference))
    box = union_box(prediction != 0, reference != 0)
    if box is None:
        return dict.fromkeys(members, ABSENT)
    # Cut to one slice a volume would be taken for a picture, whose masks have outlines and no surfaces.
    box = tuple(slice(max(part.start - 1, 0), part.stop + 1) if part.stop - part.start == 1 else part for part in box)
    table = np.zeros(values[-1] + 1, dtype=np.uint16)
    table[values] = np.arange(len(values))
    predicted, true = table[prediction[box]], table[reference[box]]  # positions in ``values``
    counts = count_pairs(true, predicted, len(values))
    scores = {}
    for name, group in members.items():
        index = np.array([values.index(value) for value in group])
        in_true, in_predicted = int(counts[index].sum()), int(counts[:, index].sum())
        if in_true == 0 and in_predicted == 0:
            scores[name] = ABSENT
        elif in_true == 0 or in_predicted == 0:
            scores[name] = ClassScore(0.0, worst, worst, 0.0, "missing" if in_true else "spurious")
        else:
            chosen = np.zeros(len(values), dtype=bool)
            chosen[index] = True
            dice = 2 * int(counts[np.ix_(index, index)].sum()) / (in_true + in_predicted)
            scores[name] = ClassScore(
                dice, *surface_scores(chosen[predicted], chosen[true], spacing, tolerance), "scored"
            )
    return scores
