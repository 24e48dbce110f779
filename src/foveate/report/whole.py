"""What the page of a run shows where an image has one answer: pictures with the answer, and a table of confusions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foveate.batches.cache import PreparedCase, PreparedCohort
from foveate.batches.prepare import as_shown
from foveate.predict.whole import WholePredictor
from foveate.report.page import ReportCase
from foveate.slices import to_draw
from foveate.tasks import Classification


def answer_pictures(
    predictor: WholePredictor, prepared: PreparedCohort, shown: Sequence[tuple[str, str]]
) -> list[ReportCase]:
    """A picture of each case of ``shown`` (id, caption) with the model's answer and, where there is one, the label."""
    out = []
    for name, caption in shown:
        case = prepared[name]
        image = np.asarray(case.image, np.float32)
        answer = predictor.task.answers(predictor.logits([image]))[0]
        said = f"Answer: {_said(predictor, answer)}. {_label(predictor, case)}{caption}."
        drawn = to_draw(as_shown(image, predictor.plan), [channel.name for channel in predictor.plan.channels])
        affine = np.diag([*case.spacing, 1.0]) if len(case.spacing) == 3 else None
        nothing = np.zeros(image.shape[1:], np.uint8)
        out.append(ReportCase(name, drawn, case.spacing, None, nothing, None, said, affine))
    return out


def confusion(
    predictor: WholePredictor, prepared: PreparedCohort, names: Sequence[str], logits: np.ndarray
) -> list[dict[str, Any]]:
    """A row for each class: how often cases of it got each answer; only of classes that exclude each other."""
    task = predictor.task
    if not isinstance(task, Classification) or not task.exclusive:
        return []
    table = np.zeros((task.channels, task.channels), int)
    truth = [int(np.argmax(prepared[name].target)) for name in names]  # type: ignore[arg-type]
    np.add.at(table, (truth, logits.argmax(1)), 1)
    return [
        {"label": name, **{f"answer {other}": int(n) for other, n in zip(task.names, row, strict=True)}}
        for name, row in zip(task.names, table, strict=True)
    ]


def _said(predictor: WholePredictor, answer: np.ndarray) -> str:
    task = predictor.task
    if isinstance(task, Classification):
        chosen = task.chosen(answer)
        parts = [f"{name} ({answer[task.names.index(name)]:.2f})" for name in chosen]
        return ", ".join(parts) or f"none of {', '.join(task.names)}"
    value, low, high = ("" if np.isnan(number) else task.text(number, 4) for number in answer)
    return f"{value} (90% interval {low} to {high})" if low else value


def _label(predictor: WholePredictor, case: PreparedCase) -> str:
    if case.target is None:
        return ""
    task = predictor.task
    if isinstance(task, Classification):
        names = [name for name, value in zip(task.names, case.target, strict=True) if value > 0]
        return f"Label: {', '.join(names) or 'none'}. "
    return f"Label: {task.text(task.mean + task.std * float(case.target[0]), 4)}. "
