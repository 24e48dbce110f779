"""Answers for every image of a folder, in one table: predictions.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from foveate.cohort.cohort import Case
from foveate.cohort.layout_classes import JOINED
from foveate.errors import InputError, Problem
from foveate.files import write_atomic
from foveate.io import image_suffix
from foveate.predict.views import draw_views
from foveate.predict.whole import WholePredictor
from foveate.tasks import Classification
from foveate.text import one_form

TABLE = "predictions.csv"
READERS = 2  # threads that read the next images while the network sees these


def predict_table(
    predictor: WholePredictor,
    cases: Sequence[Case],
    out: Path,
    *,
    views: int = 0,
    progress: Callable[[int, int], None] | None = None,
    said: list[Problem] | None = None,
) -> Path:
    """Write ``out/predictions.csv``, or ``out`` itself where that ends in .csv, into a folder that is there; its path.

    Columns: case, label, and the probability of each class; of regression case, value, low, high. Answers are averaged
    over the plan's mirrorings. said: takes what was no more than a warning. Raises InputError at the end, when the
    other cases are written, with each case that could not be read; nothing is written where all are such.
    """
    path = table_path(out)
    plan = predictor.plan
    drawn = draw_views(views, plan.spacing, plan.mirror_axes, seed=0)
    rows: list[list[str]] = []
    problems: list[Problem] = []
    waiting: list[tuple[str, np.ndarray]] = []

    def answer() -> None:
        answers = predictor.task.answers(predictor.logits([image for _, image in waiting], views=drawn))
        rows.extend(_row(predictor, name, values) for (name, _), values in zip(waiting, answers, strict=True))
        waiting.clear()

    for number, (case, read) in enumerate(_read(predictor, cases, said), 1):
        if isinstance(read, InputError):
            problems += [replace(problem, case=case.id) for problem in read.problems]
        else:
            waiting.append((case.id, read))
        if len(waiting) == predictor.batch or (waiting and number == len(cases)):
            answer()
        if progress is not None:
            progress(number, len(cases))
    if rows:
        _write(path, [_header(predictor), *rows])
    if problems:
        raise InputError(problems)
    return path


def table_path(out: Path) -> Path:
    """Where the table goes."""
    return out if out.suffix.lower() == ".csv" else out / TABLE


def find_tree(source: Path) -> list[Case]:
    """The images of a folder and of all folders in it, as cases called by their path below it without suffix.

    Raises InputError where two files are one case.
    """
    found: dict[str, Path] = {}
    problems = []
    for file in sorted(source.rglob("*")):
        below = file.relative_to(source)
        if not image_suffix(file) or any(part.startswith(".") for part in below.parts) or not file.is_file():
            continue
        name = one_form(below.as_posix()[: -len(image_suffix(file))])
        if found.setdefault(name, file) is not file:
            problems.append(
                Problem(str(file), "name", f"the same case as {found[name].name}", "one file", "Remove one.")
            )
    if problems:
        raise InputError(problems)
    return [Case(name, (file,), None, name) for name, file in sorted(found.items())]


def _read(
    predictor: WholePredictor, cases: Sequence[Case], said: list[Problem] | None
) -> Iterator[tuple[Case, np.ndarray | InputError]]:
    """Prepared images in order, a batch read ahead; what cannot be read is answered with its error."""

    def read(case: Case) -> np.ndarray | InputError:
        try:
            return predictor.prepare(predictor.read(case.images, case.missing, said))
        except InputError as error:
            return error

    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
        ahead = 2 * predictor.batch
        futures = [pool.submit(read, case) for case in cases[:ahead]]
        for number, case in enumerate(cases):
            yield case, futures[number].result()
            futures[number] = None  # type: ignore[call-overload]  # the image is done with
            if number + ahead < len(cases):
                futures.append(pool.submit(read, cases[number + ahead]))


def _header(predictor: WholePredictor) -> list[str]:
    if isinstance(predictor.task, Classification):
        return ["case", "label", *predictor.task.names]
    return ["case", "value", "low", "high"]


def _row(predictor: WholePredictor, name: str, answer: np.ndarray) -> list[str]:
    task = predictor.task
    if isinstance(task, Classification):
        return [name, JOINED.join(task.chosen(answer)), *(f"{value:.6g}" for value in answer)]
    return [name, *("" if np.isnan(value) else task.text(value) for value in answer)]


def _write(path: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomic(path, text.getvalue())
