"""What the dataset folder says of each case, and which prediction belongs to which case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foveate.cohort.layouts import find_cohort, task_of
from foveate.cohort.listing import some
from foveate.errors import InputError, Problem, refuse


@dataclass(frozen=True)
class Truths:
    """The labelled cases of a dataset folder.

    targets: case -> names of its classes, or its value. classes: in order; empty for values. exclusive: whether a case
    has one class, and settled: whether that is known, and not only what a few lines of a table happen to show.
    patients: case -> patient.
    """

    root: Path
    task: str
    targets: dict[str, tuple[str, ...] | float]
    patients: dict[str, str]
    classes: tuple[str, ...] = ()
    exclusive: bool = True
    settled: bool = True
    problems: list[Problem] = field(default_factory=list)


def read_truths(data: Path, task: str) -> Truths:
    """What is true of each labelled case of the dataset folder, for classification or regression.

    Raises InputError where the folder is no dataset, is one of another task, or holds labels that cannot be read.
    """
    usual = task_of(data)
    try:
        cohort = find_cohort(data, task)
    except InputError:
        if usual == task:
            raise
        fix = "Check that predictions and dataset belong together."
        raise refuse(data, "task", f"labels for {usual}", f"labels for {task}, as predicted", fix) from None
    if refused := [problem for problem in cohort.problems if problem.severity == "refuse"]:
        raise InputError(refused)
    if not cohort.labelled:
        found = f"no labelled case among {len(cohort.cases)}"
        raise refuse(data, "labels", found, "labelled cases", "Score against the folder that holds the labels.")
    targets = {case.id: case.target for case in cohort.labelled}
    patients = {case.id: case.patient for case in cohort.labelled}
    # That cases have no label is no news here; that their patients are not known is.
    said = [problem for problem in cohort.problems if problem.field == "patient"]
    settled = cohort.layout != "table" or not cohort.exclusive
    return Truths(data, task, targets, patients, tuple(cohort.classes), cohort.exclusive, settled, said)


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
    unclear = [f"{case} ({some(others[_last(case)])})" for case in missing if _last(case) in others]
    if not found and not unclear:
        raise refuse(
            path,
            "case ids",
            f"{some(predicted)} ({len(predicted)} in all), none of which has a label",
            f"cases of {truths.root}, such as {some(wanted)}",
            "Check the two paths.",
        )
    if missing:
        said = f"no prediction for {len(missing)} of {len(wanted)} labelled cases ({some(missing)})"
        fix = "Predict them too, or name the cases to score in a file for --cases."
        if unclear:
            said += f"; not clear which belongs to {some(unclear)}"
            fix = "Write the ids of the dataset, folders included."
        raise refuse(path, "case ids", said, "a prediction for each", fix)
    chosen = {case: found[case] for case in wanted}
    used = set(found.values())
    extra = [case for row, case in enumerate(predicted) if row not in used]
    if not extra:
        return chosen, []
    said = f"{len(extra)} predictions without a label ({some(extra)})"
    return chosen, [Problem(str(path), "case ids", said, "labelled cases", "They were left out.", "warn")]


def _wanted(truths: Truths, cases: Sequence[str] | None) -> list[str]:
    if cases is None:
        return list(truths.targets)
    unknown = [case for case in cases if case not in truths.targets]
    if unknown or not cases:
        found = some(unknown) or "no id"
        raise refuse(truths.root, "cases", found, "ids of labelled cases", "Correct the ids.")
    return list(dict.fromkeys(cases))


def _last(case: str) -> str:
    return case.rsplit("/", 1)[-1]


def _by_last(cases: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        groups[_last(case)].append(case)
    return groups
