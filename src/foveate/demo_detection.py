"""The demo of detection: simulate smears, train the baseline and a method with unlabelled ones alike, compare."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from foveate.cohort.simulate_smears import SimulatedSmears, simulate_smears
from foveate.demo import BASELINE, compared_method, hardly_trained, new_folder, task_rows, task_table, verdict

if TYPE_CHECKING:
    from foveate.cohort.plan import Plan
    from foveate.metrics.task_result import TaskEvaluation
    from foveate.report.page import ReportCase

LABELLED, UNLABELLED, TEST = 8, 150, 60  # pictures
MINUTES = 1.6  # of training per method: the whole demo then takes less than five minutes on two cores
SHOWN = ("ap50", "ap", "froc")  # in the report
PRINTED = {"ap50": "AP50", "froc": "FROC"}
NOTE = (
    "These pictures are drawn: smears with red cells, white cells and platelets, each with its own stain, light, focus "
    "and noise. The scores compare two ways of training on these pictures, with one seed; they say nothing about other "
    "pictures."
)
CHOICE = "Shown below are, for each method, the test pictures in which it missed most or found most that is not there."
WORST = 4


def run_demo(out: Path = Path("demo"), minutes: float | None = None, seed: int = 0, quiet: bool = False) -> Path:
    """Run the demo in a new numbered folder under ``out`` and return the path of its report.html.

    minutes: of training, per method. Nothing is downloaded, opened or overwritten.
    """
    from foveate.engine.provenance import versions
    from foveate.metrics.task_pairs import paired
    from foveate.report.page import write_report
    from foveate.report.run import read_log

    console, started = Console(quiet=quiet), time.monotonic()
    folder = new_folder(out)
    console.print(f"Drawing {LABELLED} labelled, {UNLABELLED} unlabelled and {TEST} test pictures.")
    smears = simulate_smears(folder / "smears", LABELLED, UNLABELLED, TEST, seed)
    method, minutes = compared_method(), MINUTES if minutes is None else minutes
    plan = _plan(smears)
    scores = {name: _train_and_score(folder, smears, plan, name, minutes, seed, quiet) for name in (BASELINE, method)}
    logs = {name: read_log(folder / name) for name in scores}
    steps = {name: max((record["step"] for record in log), default=0) for name, log in logs.items()}
    gain = paired([scores[method]], [scores[BASELINE]], "ap50")
    sentence = verdict(method, *gain, "AP50", "pictures") + hardly_trained(steps)
    rows = task_rows(scores, steps, SHOWN)
    console.print(task_table(rows, PRINTED, f"{TEST} simulated test pictures"), sentence, sep="\n")
    report = write_report(
        folder,
        title="Foveate demo: few boxes, many pictures",
        subtitle=f"{LABELLED} labelled and {UNLABELLED} unlabelled pictures, {TEST} for the test; "
        f"{minutes:g} minutes of training for each method",
        notes=[NOTE, sentence, CHOICE],
        table=rows,
        curves=logs,
        cases=[case for name in scores for case in _cases(folder, smears, scores[name], name)],
        command="foveate demo --task detection",
        provenance={"seed": seed, "minutes per method": minutes, "versions": versions()},
    )
    console.print(f"{(time.monotonic() - started) / 60:.1f} minutes in all. The report: {report}", soft_wrap=True)
    return report


def _plan(smears: SimulatedSmears) -> Plan:
    """One plan for both methods, not fitted to the machine at hand: half of what two cores take in half a second."""
    from foveate.cohort.check import check
    from foveate.cohort.fingerprint import fingerprint
    from foveate.cohort.planning import CPU, make_plan

    report = check(smears.train)
    return make_plan(report.cohort, fingerprint(report), CPU.scaled(0.5))


def _train_and_score(
    folder: Path, smears: SimulatedSmears, plan: Plan, method: str, minutes: float, seed: int, quiet: bool
) -> TaskEvaluation:
    """Train ``method`` by ``plan`` in ``folder/method``, predict the test pictures, score them."""
    from foveate.engine.train import train
    from foveate.metrics.boxes import evaluate_boxes
    from foveate.predict.files import predict_files

    (folder / method).mkdir()
    plan.write(folder / method / "plan.json")
    train(smears.train, folder / method, minutes=minutes, method=method, seed=seed, quiet=quiet)
    found, *_ = predict_files(folder / method, smears.test / "images", folder / "predictions" / method)
    scores = evaluate_boxes(found, smears.test)
    (folder / "scores").mkdir(exist_ok=True)
    scores.write(folder / "scores" / f"{method}.json")
    return scores


def _cases(folder: Path, smears: SimulatedSmears, scores: TaskEvaluation, method: str) -> list[ReportCase]:
    """The worst test pictures with the boxes that ``method`` found, as ``foveate predict`` drew them."""
    from foveate.io import read_image
    from foveate.report.page import ReportCase
    from foveate.report.pictures import View

    out = []
    for case in scores.cases[:WORST]:
        drawn = (folder / "predictions" / method / "pictures" / f"{case['case']}.png").read_bytes()
        caption = f"{case['found']} of {case['boxes']} found, {case['false']} found that are not there."
        image = read_image([smears.test / "images" / f"{case['case']}.png"]).array[0]
        name = f"{case['case']}, {method}"
        out.append(ReportCase(name, image, (1.0, 1.0), None, None, None, caption, views=(View("boxes", drawn),)))
    return out
