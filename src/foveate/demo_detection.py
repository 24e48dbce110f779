"""The demo of detection: simulate smears, train the baseline and a method with unlabelled ones alike, compare."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.cohort.simulate_smears import simulate_smears
from foveate.demo_tasks import Tour, run_tour

if TYPE_CHECKING:
    from foveate.cohort.plan import Plan
    from foveate.metrics.task_result import TaskEvaluation
    from foveate.report.page import ReportCase

LABELLED, UNLABELLED, TEST = 8, 150, 60  # pictures
NOTE = (
    "These pictures are drawn: smears with red cells, white cells and platelets, each with its own stain, light, focus "
    "and noise. The scores compare two ways of training on these pictures, with one seed; they say nothing about other "
    "pictures."
)
CHOICE = "Shown below are, for each method, the test pictures in which it missed most or found most that is not there."
WORST = 4


def run_demo(out: Path = Path("demo"), minutes: float | None = None, seed: int = 0, quiet: bool = False) -> Path:
    """The demo, as ``run_tour`` runs it."""
    tour = Tour(
        task="detection",
        title="few boxes, many pictures",
        pictures=f"{LABELLED} labelled and {UNLABELLED} unlabelled pictures",
        test=TEST,
        notes=(NOTE, CHOICE),
        compared=("ap50", "AP50"),
        shown=("ap50", "ap", "froc"),
        printed={"ap50": "AP50", "froc": "FROC"},
        simulate=lambda folder: simulate_smears(folder, LABELLED, UNLABELLED, TEST, seed),
        score=partial(_train_and_score, seed=seed, quiet=quiet),
        cases=_cases,
    )
    return run_tour(tour, out, minutes, seed, quiet)


def _plan(train: Path) -> Plan:
    """One plan for both methods, not fitted to the machine at hand: half of what two cores take in half a second."""
    from foveate.cohort.check import check
    from foveate.cohort.fingerprint import fingerprint
    from foveate.cohort.planning import CPU, make_plan

    report = check(train)
    return make_plan(report.cohort, fingerprint(report), CPU.scaled(0.5))


def _train_and_score(folder: Path, method: str, minutes: float, *, seed: int, quiet: bool) -> TaskEvaluation:
    """Train ``method`` in ``folder/method``, predict the test pictures, score them."""
    from foveate.engine.train import train
    from foveate.metrics.boxes import evaluate_boxes
    from foveate.predict.files import predict_files

    train_folder, test = folder / "pictures" / "train", folder / "pictures" / "test"
    (folder / method).mkdir()
    _plan(train_folder).write(folder / method / "plan.json")
    train(train_folder, folder / method, minutes=minutes, method=method, seed=seed, quiet=quiet)
    found, *_ = predict_files(folder / method, test / "images", folder / "predictions" / method, overwrite=True)
    scores = evaluate_boxes(found, test)
    (folder / "scores").mkdir(exist_ok=True)
    scores.write(folder / "scores" / f"{method}.json")
    return scores


def _cases(folder: Path, method: str, scores: TaskEvaluation) -> list[ReportCase]:
    """The worst test pictures with the boxes that ``method`` found, as ``foveate predict`` drew them."""
    from foveate.io import read_image
    from foveate.predict.box_picture import CAPTION
    from foveate.report.page import ReportCase
    from foveate.report.pictures import View

    out = []
    for case in scores.cases[:WORST]:
        drawn = (folder / "predictions" / method / "pictures" / f"{case['case']}.png").read_bytes()
        caption = f"{case['found']} of {case['boxes']} found, {case['false']} found that are not there."
        image = read_image([folder / "pictures" / "test" / "images" / f"{case['case']}.png"]).array[0]
        name = f"{case['case']}, {method}"
        out.append(ReportCase(name, image, (1.0, 1.0), None, None, None, caption, views=(View(CAPTION, drawn),)))
    return out
