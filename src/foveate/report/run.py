"""The page of a training run: what it learned from, how training went, and pictures of what it now predicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foveate.batches.cache import PreparedCase, PreparedCohort
from foveate.batches.prepare import as_shown
from foveate.cohort.plan import Plan
from foveate.cohort.split import Split
from foveate.errors import refuse
from foveate.io.volume import Volume
from foveate.predict.box_picture import CAPTION, draw_boxes
from foveate.predict.detecting import BoxPredictor
from foveate.predict.predictor import AnyPredictor, Predictor
from foveate.predict.whole import WholePredictor
from foveate.report.page import ReportCase, write_report
from foveate.report.pictures import View
from foveate.report.whole import answer_pictures, confusion
from foveate.slices import to_draw

PICTURES = 6  # cases shown
# Of each task: key of the log -> name in the table.
SCORES = {
    "segmentation": {"dice": "validation Dice"},
    "classification": {"macro_f1": "validation macro F1", "accuracy": "validation accuracy"},
    "regression": {"mae": "validation mean absolute error"},
    "detection": {"ap50": "validation AP50"},
}


def write_run_report(
    run: Path,
    plan: Plan,
    predictor: AnyPredictor | None,
    prepared: PreparedCohort,
    split: Split,
    shown: Sequence[tuple[str, str]],
    notes: Sequence[str] = (),
    held: np.ndarray | None = None,
    attention: View | None = None,
) -> Path:
    """Write ``run/report.html`` from the run's records and predictions on prepared scans; returns its path.

    predictor: None after pre-training, which leaves nothing to predict with. shown: cases to picture, as ``pictured``
    gives them. notes: what the reader must know. held: logits ``[N, K]`` of the cases of validation, where an
    image has one answer. attention: maps of one of the cases shown, its title saying which, if the network has any.
    """
    records = read_log(run)
    provenance = json.loads((run / "provenance.json").read_text(encoding="utf-8"))
    notes = list(notes)
    if predictor is None:
        notes.append("This run was pre-training: it labels no scan. Train from it with --init.")
    elif not split.validation:
        notes.append("The scans below were part of the training. How good the model is on new scans is not known yet.")
    elif len(split.validation) > len(shown):
        notes.append(
            f"Below are the {len(shown)} of {len(split.validation)} held-back cases that the model does worst on."
        )
    summary = {
        "labelled": len(split.train),
        "unlabelled": len(split.unlabelled),
        "held back": len(split.validation),
        "method": provenance["config"]["method"]["name"],
        "network": provenance["config"]["network"]["name"],
        "voxel size": " x ".join(f"{s:g}" for s in plan.spacing),
        "patch": " x ".join(map(str, plan.patch)),
        "batch": plan.batch,
        "steps": max((record["step"] for record in records), default=0),
    }
    if plan.fits:  # each picture is scaled by itself
        del summary["voxel size"]
    for key, title in SCORES[plan.task].items():
        summary[title] = next((r[key] for r in reversed(records) if r.get(key) is not None), None)
    if gaps := [record["free_energy_gap"] for record in records if record.get("free_energy_gap") is not None]:
        summary["free-energy gap"] = gaps[-1]  # of scans held back to scans that teach
    known = sum("image" in parts for parts in provenance["data"].values())  # masks without images are no cases
    cases, table = list[ReportCase](), list[dict[str, Any]]()
    if isinstance(predictor, WholePredictor):
        cases = answer_pictures(predictor, prepared, shown)
        table = [] if held is None else confusion(predictor, prepared, split.validation, held)
        summary |= {name: value for name, value in predictor.task.description().items() if name != "name"}
    elif isinstance(predictor, BoxPredictor):
        cases = [_boxes(prepared[name], caption, predictor) for name, caption in shown]
    elif predictor:
        cases = [_picture(prepared[name], caption, predictor) for name, caption in shown]
    return write_report(
        run,
        title="Foveate training run",
        subtitle=run.resolve().name,
        notes=notes,
        table=[summary],
        curves={summary["method"]: records},
        cases=cases,
        classes=plan.classes if plan.task == "segmentation" else {},
        confusion=table,
        attention=attention,
        command=" ".join(provenance["command"]),
        provenance={"seed": provenance["seed"], "cases": known, **provenance["versions"]},
    )


def pictured(split: Split, errors: Mapping[str, float]) -> list[tuple[str, str]]:
    """The cases that the page shows: (id, what it was to the training).

    Of held-back cases those that the model does worst on, by ``errors``; where there are none a few training and
    unlabelled ones, whose pictures show that training worked and not how well the model does on new scans.
    """
    if split.validation:
        worst = sorted(split.validation, key=lambda name: -np.nan_to_num(errors.get(name, 0.0), nan=-1.0))
        return [(name, "held back: not used in training") for name in worst[:PICTURES]]
    half = PICTURES // 2
    shown = [(name, "labelled: used in training") for name in split.train[:half]]
    return shown + [(name, "unlabelled: its label was not known") for name in split.unlabelled[:half]]


def read_log(run: Path) -> list[dict[str, Any]]:
    """The records of a run's log.jsonl, oldest first; lines that hold none, as one that a kill cut short, are left out.

    Raises InputError when there is no such file.
    """
    path, records = run / "log.jsonl", []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise refuse(path, "file", error.strerror, "the log of a run", "Name the folder of a run.") from None
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _boxes(case: PreparedCase, caption: str, predictor: BoxPredictor) -> ReportCase:
    """With the boxes that were found, on the prepared image; the number of those that are known is said."""
    image = np.asarray(case.image, np.float32)
    found, spacing = predictor.predict_prepared(image), [*case.spacing, *[1.0] * (4 - len(case.spacing))]
    known = None if case.target is None else case.target[case.target[:, -1] >= 0, :-1]
    shown = as_shown(image, predictor.plan)
    drawn = draw_boxes(Volume(shown, np.diag(spacing)), found, list(predictor.plan.classes), known)
    if known is not None:
        caption += f"; {len(known)} boxes known"
    return ReportCase(case.id, image[0], case.spacing, None, None, None, caption, views=(View(CAPTION, drawn),))


def _picture(case: PreparedCase, caption: str, predictor: Predictor) -> ReportCase:
    image = np.asarray(case.image, np.float32)
    predicted = predictor.tidy(predictor.predict_prepared(image)).labels
    label = None if case.label is None else np.array(case.label)
    dice = None if label is None else predictor.task.mean_dice(predicted, label)
    # Prepared volumes lie in canonical orientation, so their affine is the spacing alone.
    affine = np.diag([*case.spacing, 1.0]) if len(case.spacing) == 3 else None
    shown = to_draw(as_shown(image, predictor.plan), [channel.name for channel in predictor.plan.channels])
    return ReportCase(case.id, shown, case.spacing, label, predicted, dice, caption, affine)
