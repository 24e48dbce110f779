"""What the dataset folder says of each case, and which prediction belongs to which case."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foveate.cohort.listing import read_patients
from foveate.errors import Problem, refuse
from foveate.io import case_stem, image_suffix

_SHOWN = 5


@dataclass(frozen=True)
class Truths:
    """The labelled cases of a dataset folder.

    targets: case -> names of its classes, or its value. classes: in order; empty for values. exclusive: whether a case
    has one class. patients: case -> patient.
    """

    root: Path
    task: str
    targets: dict[str, tuple[str, ...] | float]
    patients: dict[str, str]
    classes: tuple[str, ...] = ()
    exclusive: bool = True
    problems: list[Problem] = field(default_factory=list)


def read_truths(data: Path) -> Truths:
    problems: list[Problem] = []
    table = data / "labels.csv"
    targets: dict[str, tuple[str, ...] | float] = {}
    if table.is_file():
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if "value" in rows[0]:
            targets = {row["case"]: float(row["value"]) for row in rows if row["value"]}
        else:
            targets = {row["case"]: tuple(row["label"].split(";")) for row in rows if row["label"]}
        patients = {row["case"]: row.get("patient") or row["case"] for row in rows}
        task = "regression" if "value" in rows[0] else "classification"
        exclusive = task == "regression" or all(len(t) == 1 for t in targets.values())  # type: ignore[arg-type]
    else:
        task, exclusive = "classification", True
        for path in sorted(data.glob("*/*")):
            if image_suffix(path) and path.parent.name != "unlabelled":
                targets[f"{path.parent.name}/{case_stem(path)}"] = (path.parent.name,)
        patients = read_patients(data, targets, problems)
    classes = () if task == "regression" else tuple(sorted({n for t in targets.values() for n in t}))  # type: ignore[union-attr]
    if not targets:
        raise refuse(data, "dataset", "no labelled case", "class folders or labels.csv", "Check the path.")
    return Truths(data, task, targets, patients, classes, exclusive, problems)


def match_cases(
    path: Path, predicted: Sequence[str], truths: Truths, cases: Sequence[str] | None = None
) -> tuple[dict[str, int], list[Problem]]:
    """Labelled case -> row of its prediction, for all of them or for ``cases``; and a warning for what was left over.

    Names that differ only by folders ("glioma/image_3" and "image_3") belong together where their last part is that of
    one case and one prediction only. Raises InputError naming the cases without a prediction.
    """
    rows = {case: row for row, case in enumerate(predicted)}
    found = {case: rows[case] for case in truths.targets if case in rows}
    ends = _by_last([case for case in truths.targets if case not in found])
    others = _by_last([case for case in predicted if case not in found])
    found |= {
        ends[last][0]: rows[others[last][0]] for last in ends if len(ends[last]) == 1 == len(others.get(last, []))
    }
    wanted = _wanted(truths, cases)
    missing = [case for case in wanted if case not in found]
    unclear = [f"{case} ({_some(others[_last(case)])})" for case in missing if _last(case) in others]
    if not found and not unclear:
        raise refuse(
            path,
            "case ids",
            f"{_some(predicted)} ({len(predicted)} in all), none of which has a label",
            f"cases of {truths.root}, such as {_some(wanted)}",
            "Check the two paths.",
        )
    if missing:
        said = f"no prediction for {len(missing)} of {len(wanted)} labelled cases ({_some(missing)})"
        fix = "Predict them too, or name the cases to score in a file for --cases."
        if unclear:
            said += f"; not clear which belongs to {_some(unclear)}"
            fix = "Write the ids of the dataset, folders included."
        raise refuse(path, "case ids", said, "a prediction for each", fix)
    chosen = {case: found[case] for case in wanted}
    used = set(found.values())
    extra = [case for row, case in enumerate(predicted) if row not in used]
    if not extra:
        return chosen, []
    said = f"{len(extra)} predictions without a label ({_some(extra)})"
    return chosen, [Problem(str(path), "case ids", said, "labelled cases", "They were left out.", "warn")]


def _wanted(truths: Truths, cases: Sequence[str] | None) -> list[str]:
    if cases is None:
        return list(truths.targets)
    unknown = [case for case in cases if case not in truths.targets]
    if unknown or not cases:
        found = _some(unknown) or "no id"
        raise refuse(truths.root, "cases", found, "ids of labelled cases", "Correct the ids.")
    return list(dict.fromkeys(cases))


def _last(case: str) -> str:
    return case.rsplit("/", 1)[-1]


def _by_last(cases: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        groups[_last(case)].append(case)
    return groups


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
