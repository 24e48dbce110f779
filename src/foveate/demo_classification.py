"""The demo of classification: simulate pictures, train the baseline and a method with unlabelled ones, compare."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from foveate.cohort.simulate_pictures import SimulatedPictures, simulate_pictures
from foveate.demo import BASELINE, compared_method, hardly_trained, new_folder, task_rows, task_table, verdict

if TYPE_CHECKING:
    from foveate.metrics.task_result import TaskEvaluation
    from foveate.report.page import ReportCase

LABELLED, UNLABELLED, TEST = 20, 300, 300  # pictures: labelled ones of each class
MINUTES = 1.6  # of training per method: the whole demo then takes less than five minutes on two cores
SHOWN = ("accuracy", "macro_f1", "auroc", "ece")  # in the report
PRINTED = {"accuracy": "accuracy", "ece": "calibration error"}
NOTE = (
    "These pictures are simulated on real anatomy: slices of the ICBM 2009a template of the brain (T1, as installed by "
    "nilearn), each under a random smooth deformation with its own contrast, shading and noise. The lesions are drawn. "
    "The scores compare two ways of training on these pictures, with one seed; they say nothing about other pictures."
)
CHOICE = "Shown below are, for each method, pictures that it got wrong, those that it was surest of first."
WORST = 6


def run_demo(out: Path = Path("demo"), minutes: float | None = None, seed: int = 0, quiet: bool = False) -> Path:
    """Run the demo in a new numbered folder under ``out`` and return the path of its report.html.

    minutes: of training, per method. Nothing is downloaded, opened or overwritten.

    Raises InputError when nilearn, which ships the template, is not installed.
    """
    from foveate.engine.provenance import versions
    from foveate.metrics.task_pairs import paired
    from foveate.report.page import write_report
    from foveate.report.run import read_log

    console, started = Console(quiet=quiet), time.monotonic()
    folder = new_folder(out)
    console.print(
        f"Simulating {LABELLED} labelled pictures of each class, {UNLABELLED} unlabelled, {TEST} for the test."
    )
    pictures = simulate_pictures(folder / "pictures", LABELLED, UNLABELLED, TEST, seed)
    method, minutes = compared_method(), MINUTES if minutes is None else minutes
    scores = {name: _train_and_score(folder, pictures, name, minutes, seed, quiet) for name in (BASELINE, method)}
    logs = {name: read_log(folder / name) for name in scores}
    steps = {name: max((record["step"] for record in log), default=0) for name, log in logs.items()}
    gain = paired([scores[method]], [scores[BASELINE]], "accuracy")
    sentence = verdict(method, *gain, "accuracy", "pictures") + hardly_trained(steps)
    rows = task_rows(scores, steps, SHOWN)
    console.print(task_table(rows, PRINTED, f"{TEST} simulated test pictures"), sentence, sep="\n")
    report = write_report(
        folder,
        title="Foveate demo: few labels, many pictures",
        subtitle=f"{LABELLED} labelled pictures of each class and {UNLABELLED} unlabelled ones, {TEST} for the test; "
        f"{minutes:g} minutes of training for each method",
        notes=[NOTE, sentence, CHOICE],
        table=rows,
        curves=logs,
        cases=[case for name in scores for case in _cases(pictures, scores[name], name)],
        command="foveate demo --task classification",
        provenance={"seed": seed, "minutes per method": minutes, "versions": versions()},
    )
    console.print(f"{(time.monotonic() - started) / 60:.1f} minutes in all. The report: {report}", soft_wrap=True)
    return report


def _train_and_score(
    folder: Path, pictures: SimulatedPictures, method: str, minutes: float, seed: int, quiet: bool
) -> TaskEvaluation:
    """Train ``method`` in ``folder/method``, predict the test pictures, score them."""
    from foveate.engine.train import train
    from foveate.metrics.tables import evaluate_table
    from foveate.predict.files import predict_files

    train(pictures.train, folder / method, minutes=minutes, method=method, seed=seed, quiet=quiet)
    (table,) = predict_files(folder / method, pictures.test, folder / "predictions" / method)
    found = evaluate_table(table, pictures.test)
    (folder / "scores").mkdir(exist_ok=True)
    found.write(folder / "scores" / f"{method}.json")
    return found


def _cases(pictures: SimulatedPictures, scores: TaskEvaluation, method: str) -> list[ReportCase]:
    """Test pictures that ``method`` got wrong, with its answer."""
    import numpy as np

    from foveate.io import read_image
    from foveate.report.page import ReportCase

    out = []
    for case in [case for case in scores.cases if not case["right"]][:WORST]:
        image = read_image([pictures.test / f"{case['case']}.png"]).array[0]
        caption = f"Label: {case['label']}. Answer: {case['predicted']}."
        nothing = np.zeros(image.shape, np.uint8)
        out.append(ReportCase(f"{case['case']}, {method}", image, (1.0, 1.0), None, nothing, None, caption))
    return out
