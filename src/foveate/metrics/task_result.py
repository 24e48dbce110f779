"""What an evaluation of anything but label maps says: scores with intervals, a row per case, and what was left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.errors import Problem
from foveate.files import write_atomic
from foveate.metrics import bootstrap
from foveate.metrics.bootstrap import Estimate

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class TaskEvaluation:
    """The scores of a set of predictions; ``evaluation["macro_f1"]`` is (value, low, high).

    scores: by key; ``f1/glioma`` is of one class. classes: their names in order, empty for values.
    cases: a row each, worst first, with ``case`` and ``patient`` before the rest.
    details: what else the JSON holds, by key: only JSON types. ``confusion`` and ``reliability`` are shown and drawn.
    problems: warnings; what would make a score meaningless has been refused instead.
    """

    task: str
    scores: Mapping[str, Estimate]
    classes: tuple[str, ...]
    cases: tuple[Mapping[str, Any], ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def __getitem__(self, key: str) -> Estimate:
        return self.scores[key]

    @property
    def patients(self) -> int:
        """Number of different patients, the unit that is resampled."""
        return len({case["patient"] for case in self.cases})

    @property
    def patients_named(self) -> bool:
        """Whether anything says which cases are of one patient; else each counts as a patient of its own."""
        return any(case["patient"] != case["case"] for case in self.cases)

    def to_json(self) -> dict[str, Any]:
        """Flat keys for the scores (``macro_f1``, ``macro_f1_interval``, ``f1/glioma``, ...) and a row per case.

        Only JSON types; what does not apply is None.
        """
        out: dict[str, Any] = {}
        for key, estimate in self.scores.items():
            out[key] = estimate.value
            out[f"{key}_interval"] = [estimate.low, estimate.high]
        out |= {
            "task": self.task,
            "case_count": len(self.cases),
            "patient_count": self.patients,
            "patients_named": self.patients_named,
            "interval": f"bootstrap 95% over patients, {bootstrap.RESAMPLES} resamples, seed {bootstrap.SEED}",
            "classes": list(self.classes),
            **self.details,
            "warnings": [str(problem) for problem in self.problems],
            "cases": [dict(case) for case in self.cases],
        }
        cleaned: dict[str, Any] = without_nan(out)
        return cleaned

    def write(self, path: Path) -> list[Path]:
        """The JSON form, and where confidence was scored the reliability plot beside it; the paths written."""
        write_atomic(path, dumps(self.to_json(), indent=1, allow_nan=False) + "\n")
        if "reliability" not in self.details:
            return [path]
        from foveate.metrics.reliability_plot import draw_reliability

        picture = path.with_name(f"{path.stem}-reliability.png")
        write_atomic(picture, draw_reliability(self.details["reliability"], self["ece"]))
        return [path, picture]

    def render(self, console: Console) -> None:
        """Print the tables and everything that was left out; fits 80 columns."""
        from foveate.metrics.task_show import show

        show(self, console)


def without_nan(value: Any) -> Any:
    """The same with None, which JSON knows, in place of every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
