"""Classes and values: predictions.csv against what the dataset folder says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from foveate.cohort.layout_classes import JOINED
from foveate.errors import InputError, Problem, refuse
from foveate.metrics.bootstrap import estimates
from foveate.metrics.classification import SHIFTED, classification_scores, confidence, confusion, decide
from foveate.metrics.prediction_table import ClassTable, ValueTable, read_table, sums_to_one
from foveate.metrics.regression import regression_scores
from foveate.metrics.reliability import reliability
from foveate.metrics.task_result import TaskEvaluation
from foveate.metrics.truths import Truths, match_cases, read_truths
from foveate.text import closest


def evaluate_table(path: Path, data: Path, cases: Sequence[str] | None = None) -> TaskEvaluation:
    """Score the predictions.csv at ``path`` against the dataset folder ``data``, all labelled cases of it or ``cases``.

    Raises InputError: a table that cannot be scored, other classes than the dataset's, a case without a prediction.
    """
    table = read_table(path)
    truths = read_truths(data, "regression" if isinstance(table, ValueTable) else "classification")
    rows, problems = match_cases(path, table.ids, truths, cases)
    ids, order = list(rows), list(rows.values())
    patients = [truths.patients.get(case, case) for case in ids]
    targets = [truths.targets[case] for case in ids]
    if isinstance(table, ValueTable):
        found = score_values(ids, patients, np.array(targets), table.values[order], table.low[order], table.high[order])
    else:
        classes, columns = _columns(table, truths, problems)
        exclusive = _exclude(table, truths, problems)
        if exclusive:
            sums_to_one(table)
        encoded = np.array([[float(name in target) for name in classes] for target in targets])  # type: ignore[operator]
        probabilities = table.probabilities[np.ix_(order, columns)]
        _compare_labels(table, order, probabilities, classes, exclusive, problems)
        found = score_classes(ids, patients, encoded, probabilities, classes, exclusive)
    problems += truths.problems
    return replace(found, problems=tuple(problems))


def score_classes(
    ids: Sequence[str],
    patients: Sequence[str],
    targets: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    exclusive: bool = True,
) -> TaskEvaluation:
    """Scores of class probabilities, calibrated or not; worst case first: that of the lowest probability of its class.

    targets: ``[N, K]`` 0 or 1, or nan where one of several labels is not known. probabilities: ``[N, K]``.
    """

    def resampled(weights: np.ndarray) -> Mapping[str, np.ndarray]:
        return classification_scores(targets, probabilities, classes, weights, exclusive)

    scores = estimates(resampled, patients, SHIFTED)
    predicted, known = decide(probabilities, exclusive), np.isfinite(targets)
    details: dict[str, Any] = {"exclusive": exclusive}
    if exclusive:
        details["confusion"] = confusion(targets, predicted).tolist()
        details["reliability"] = reliability(*confidence(targets, probabilities), patients)
    else:
        of_row = np.nonzero(known)[0].tolist()
        details["reliability"] = reliability(probabilities[known], targets[known], [patients[row] for row in of_row])
    # How much the row says for what is true: for labels that do not exclude each other, of the worst of them.
    support = np.where(known, np.where(targets == 1, probabilities, np.inf if exclusive else 1 - probabilities), np.inf)
    support = support.min(axis=1)
    rows = []
    for i in np.lexsort((np.asarray(ids, dtype=str), support)).tolist():
        row: dict[str, Any] = {"case": ids[i], "patient": patients[i]}
        row["label"], row["predicted"] = (
            JOINED.join(name for name, there in zip(classes, flags, strict=True) if there)
            for flags in (targets[i] == 1, predicted[i])
        )
        row["probability_of_label"] = float(support[i])
        row["right"] = bool((predicted[i] == targets[i])[known[i]].all())
        rows.append(row)
    return TaskEvaluation(
        "classification", scores, tuple(classes), tuple(rows), details, ids=tuple(ids), resampled=resampled
    )


def score_values(
    ids: Sequence[str],
    patients: Sequence[str],
    values: np.ndarray,
    predicted: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> TaskEvaluation:
    """Scores of predicted values ``[N]`` and their intervals ``low`` to ``high`` (nan: none); largest error first."""
    resampled = partial(regression_scores, values, predicted, low, high)
    scores = estimates(resampled, patients, unbounded=("r2",))
    error = predicted - values
    columns: Mapping[str, np.ndarray] = {
        "value": values,
        "predicted": predicted,
        "low": low,
        "high": high,
        "error": error,
    }
    rows = tuple(
        {"case": ids[i], "patient": patients[i], **{name: float(column[i]) for name, column in columns.items()}}
        for i in np.lexsort((np.asarray(ids, dtype=str), -np.abs(error))).tolist()
    )
    return TaskEvaluation("regression", scores, (), rows, ids=tuple(ids), resampled=resampled)


def _exclude(table: ClassTable, truths: Truths, problems: list[Problem]) -> bool:
    """Whether classes exclude each other. A small test set may happen to show one label a case; what was predicted says
    whether there may be several."""
    if not truths.exclusive or table.several:
        return False
    if truths.settled or not table.apart:
        return True
    found, expected = "one in every row, whose probabilities do not add up to 1", "several in some row, or sums of 1"
    fix = "Scored as classes of which a case may have several."
    problems.append(Problem(str(table.path), "label", found, expected, fix, "warn"))
    return False


def _columns(table: ClassTable, truths: Truths, problems: list[Problem]) -> tuple[tuple[str, ...], list[int]]:
    """The classes to score and the column of each: the dataset's, then those that the file alone knows.

    A model may know classes that no case of a small test set has. Raises InputError where a class has no column.
    """
    odd = [name for name in table.columns if name not in truths.classes]
    expected = "a column for each of " + ", ".join(truths.classes)
    if missing := [name for name in truths.classes if name not in table.columns]:
        found = f"no column for {', '.join(missing)}" + (f", and the unknown class {', '.join(odd)}" if odd else "")
        fix = closest(odd[0], missing) if odd else "Write the probability of every class."
        raise refuse(table.path, "columns", found, expected, fix)
    if odd:
        fix = "They count as classes that no case has."
        problems.append(Problem(str(table.path), "columns", f"also {', '.join(odd)}", expected, fix, "warn"))
    classes = (*truths.classes, *odd)
    return classes, [table.columns.index(name) for name in classes]


def _compare_labels(
    table: ClassTable,
    order: Sequence[int],
    probabilities: np.ndarray,
    classes: Sequence[str],
    exclusive: bool,
    problems: list[Problem],
) -> None:
    """The label column must name classes, and is said to be set aside where the probabilities say something else."""
    if not table.labels:
        return
    told = [{name.strip() for name in table.labels[row].split(JOINED) if name.strip()} for row in order]
    if unknown := sorted(set().union(*told) - set(classes)):
        raise InputError(Problem(str(table.path), "label", ", ".join(unknown[:5]), "one of " + ", ".join(classes),
                                 closest(unknown[0], classes)))  # fmt: skip
    chosen = decide(probabilities, exclusive)
    differ = [
        table.ids[row]
        for row, names, flags, row_of in zip(order, told, chosen, probabilities, strict=True)
        # Among equal probabilities the file may have chosen another one.
        if names != {name for name, there in zip(classes, flags, strict=True) if there}
        and not (exclusive and len(names) == 1 and row_of[classes.index(next(iter(names)))] == row_of.max())
    ]
    if differ:
        found = f"{len(differ)} labels that are not those of the probabilities ({', '.join(differ[:3])})"
        expected = "the class of the highest probability" if exclusive else "the labels above one half"
        fix = "What the probabilities say was scored."
        problems.append(Problem(str(table.path), "label", found, expected, fix, "warn"))
