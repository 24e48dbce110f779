"""What an evaluation says: means with intervals, rows per case, and everything that was not there."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.errors import Problem, refuse
from foveate.files import write_atomic
from foveate.metrics import bootstrap
from foveate.metrics.case import METRICS, CaseScores, State
from foveate.metrics.task_result import without_nan

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Evaluation:
    """The scores of a set of predictions.

    cases: worst first (lowest mean Dice, then largest HD95). classes: foreground names in order.
    unit: of the distances, "mm" or, for pictures, "px". tolerance: of the surface Dice, in that unit.
    problems: warnings; what would make a score meaningless has been refused instead.
    """

    cases: tuple[CaseScores, ...]
    classes: tuple[str, ...]
    unit: str
    tolerance: float
    problems: tuple[Problem, ...] = field(default=())

    def values(self, metric: str = "dice", name: str | None = None) -> np.ndarray:
        """``[cases, classes]`` (one column for a single class), nan where the class does not apply."""
        names = self.classes if name is None else (name,)
        rows = [[getattr(case.classes[key], metric) for key in names] for case in self.cases]
        return np.array(rows, dtype=float).reshape(len(self.cases), len(names))

    def mean(self, metric: str = "dice", name: str | None = None) -> float:
        """Mean over cases of one class; of all classes, the mean of their means. metric: dice, hd95, asd or nsd."""
        return float(bootstrap.class_mean(self.values(metric, name))[0])

    def interval(self, metric: str = "dice", name: str | None = None) -> tuple[float, float]:
        """Bootstrap 95% interval of ``mean`` over patients; nan with fewer than two patients."""
        if self.patients < 2:
            return float("nan"), float("nan")
        return bootstrap.interval(bootstrap.class_mean(self.values(metric, name), self._weights))

    def listed(self, state: State) -> list[tuple[str, str]]:
        """(case, class) pairs in a state: missing, spurious, absent or scored."""
        return [(case.id, name) for case in self.cases for name in self.classes if case.classes[name].state == state]

    @property
    def missing_predictions(self) -> list[str]:
        """Cases with a label and no prediction file; they count as empty predictions."""
        return [case.id for case in self.cases if not case.predicted]

    @property
    def patients(self) -> int:
        """Number of different patients, the unit that is resampled."""
        return len({case.patient for case in self.cases})

    @cached_property
    def _weights(self) -> np.ndarray:
        return bootstrap.draw_weights([case.patient for case in self.cases])

    def key(self, metric: str) -> str:
        """Name of a metric with its unit, as in the JSON: dice, nsd, hd95_mm, asd_mm (or _px)."""
        return f"{metric}_{self.unit}" if metric in ("hd95", "asd") else metric

    def table(self) -> list[dict[str, Any]]:
        """One row per class and one for their mean: number of cases, then value and interval of every metric."""
        rows = []
        for name in [*self.classes, None] if len(self.classes) > 1 else self.classes:
            row: dict[str, Any] = {"class": "mean" if name is None else name}
            row["cases"] = int(np.isfinite(self.values("dice", name)).any(axis=1).sum())
            for metric in METRICS:
                row[self.key(metric)] = self.mean(metric, name)
                row[f"{self.key(metric)}_interval"] = self.interval(metric, name)
            rows.append(row)
        return rows

    def to_json(self) -> dict[str, Any]:
        """Flat keys for the means (``dice``, ``dice_interval``, ``dice/anterior``, ...) and a row per case.

        Only JSON types; what does not apply is None.
        """
        out: dict[str, Any] = {}
        for name in (None, *self.classes):
            for metric in METRICS:
                key = self.key(metric) + (f"/{name}" if name is not None else "")
                out[key] = self.mean(metric, name)
                out[f"{key}_interval"] = list(self.interval(metric, name))
        out |= {
            "unit": self.unit,
            "tolerance": self.tolerance,
            "case_count": len(self.cases),
            "patient_count": self.patients,
            "interval": f"bootstrap 95% over patients, {bootstrap.RESAMPLES} resamples, seed {bootstrap.SEED}",
            "classes": list(self.classes),
            "missing_predictions": self.missing_predictions,
            "missing_structures": [{"case": case, "class": name} for case, name in self.listed("missing")],
            "spurious_structures": [{"case": case, "class": name} for case, name in self.listed("spurious")],
            "not_applicable": [{"case": case, "class": name} for case, name in self.listed("absent")],
            "warnings": [str(problem) for problem in self.problems],
            "cases": [self._row(case) for case in self.cases],
        }
        cleaned: dict[str, Any] = without_nan(out)
        return cleaned

    def _row(self, case: CaseScores) -> dict[str, Any]:
        row: dict[str, Any] = {"case": case.id, "patient": case.patient, "predicted": case.predicted}
        row |= {self.key(metric): case.mean(metric) for metric in METRICS}
        for name, score in case.classes.items():
            row |= {f"{self.key(metric)}/{name}": getattr(score, metric) for metric in METRICS}
            row[f"state/{name}"] = score.state
        return row

    def write(self, path: Path) -> None:
        """The JSON form, written whole or not at all."""
        write_atomic(path, dumps(self.to_json(), indent=1, allow_nan=False) + "\n")

    def render(self, console: Console) -> None:
        """Print the tables and everything that is missing; fits 80 columns."""
        from foveate.metrics.show import show

        show(self, console)


def paired_difference(first: Evaluation, second: Evaluation, metric: str = "dice") -> tuple[float, float, float]:
    """Mean of first minus second on the same cases, with its bootstrap 95% interval: (mean, low, high).

    Both statistics see the same resampled patients. The interval is nan with fewer than two patients.
    Raises InputError when the two do not hold the same cases and classes.
    """
    one = {case.id: case for case in first.cases}
    other = {case.id: case for case in second.cases}
    if one.keys() != other.keys() or first.classes != second.classes:
        odd = sorted(one.keys() ^ other.keys())[:5] or [*first.classes, "and", *second.classes]
        raise refuse(
            "paired_difference", "cases", " ".join(odd), "the same cases and classes in both", "Evaluate both alike."
        )
    a, b = (
        first.values(metric),
        np.array(
            [[getattr(other[case.id].classes[name], metric) for name in first.classes] for case in first.cases]
        ).reshape(len(first.cases), len(first.classes)),
    )
    mean = float((bootstrap.class_mean(a) - bootstrap.class_mean(b))[0])
    if first.patients < 2:
        return mean, float("nan"), float("nan")
    weights = bootstrap.draw_weights([case.patient for case in first.cases])
    return mean, *bootstrap.interval(bootstrap.class_mean(a, weights) - bootstrap.class_mean(b, weights))
