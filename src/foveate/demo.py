"""The demo: simulate a cohort, train the supervised baseline and the default method alike, compare, report."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from foveate.cohort.simulate import CLASSES, SimulatedCohort, simulate_cohort
from foveate.config import MethodConfig

if TYPE_CHECKING:
    from foveate.metrics.result import Evaluation

LABELLED, UNLABELLED, TEST = 4, 60, 20
MINUTES = 1.7  # of training per method: the whole demo then takes less than five minutes on two cores
BASELINE = "supervised"
NOTE = (
    "These scans are simulated on real anatomy: the ICBM 2009a template of the brain (T1 with maps of grey and white "
    "matter, as installed by nilearn). Each subject is a random smooth deformation of it with its own contrast, bias "
    "field and noise. The scores compare two ways of training on these scans, with one seed; they say nothing about "
    "other scans."
)


def run_demo(out: Path = Path("demo"), minutes: float | None = None, seed: int = 0, quiet: bool = False) -> Path:
    """Run the demo in a new numbered folder under ``out`` and return the path of its report.html.

    minutes: of training, per method. Nothing is downloaded, opened or overwritten.

    Raises InputError when nilearn, which ships the template, is not installed.
    """
    from foveate.metrics.result import paired_difference

    console = Console(quiet=quiet)
    folder = _new_folder(out)
    started = time.monotonic()
    console.print(f"Simulating {LABELLED} labelled, {UNLABELLED} unlabelled and {TEST} test scans on real anatomy.")
    scans = simulate_cohort(folder / "scans", LABELLED, UNLABELLED, TEST, seed)
    method, minutes = compared_method(), MINUTES if minutes is None else minutes
    # The first run measures the machine and leaves its plan to the second, so that both train the same network. The
    # baseline goes second: the seconds that measuring takes are not taken from it.
    scores = {name: _train_and_score(folder, scans, name, minutes, seed, quiet) for name in (method, BASELINE)}
    difference = paired_difference(scores[method], scores[BASELINE])
    sentence = verdict(method, *difference)
    console.print(_table(scores), sentence, sep="\n")
    report = _report(folder, scans, scores, sentence, minutes, seed)
    console.print(f"{(time.monotonic() - started) / 60:.1f} minutes in all. The report: {report}", soft_wrap=True)
    return report


def compared_method() -> str:
    """The default method; where that is the baseline itself, the one that learns from unlabelled scans."""
    default = MethodConfig().name
    return default if default != BASELINE else "mean_teacher"


def verdict(method: str, mean: float, low: float, high: float) -> str:
    """One sentence on the paired difference in mean Dice (method minus baseline) and its 95% interval."""
    numbers = f"{mean:+.4f} mean Dice, 95% interval {low:+.4f} to {high:+.4f} over the test scans"
    if low > 0:
        return f"{method} did better than {BASELINE} here: {numbers}."
    if high < 0:
        return f"{method} did worse than {BASELINE} here: {numbers}."
    return f"{method} and {BASELINE} cannot be told apart here: {numbers}."


def _new_folder(out: Path) -> Path:
    """``out/1``, or the next number: what an earlier demo left, or anybody else, stays."""
    out.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        try:
            (out / str(number)).mkdir()
            return out / str(number)
        except FileExistsError:
            number += 1


def _train_and_score(
    folder: Path, scans: SimulatedCohort, method: str, minutes: float, seed: int, quiet: bool
) -> Evaluation:
    """Train ``method`` in ``folder/method``, predict the test scans, score them."""
    from foveate.engine.train import train
    from foveate.metrics.evaluation import evaluate
    from foveate.predict.files import predict_files

    run, predictions = folder / method, folder / "predictions" / method
    run.mkdir()
    for plan in folder.glob("*/plan.json"):
        shutil.copy(plan, run / "plan.json")
    train(scans.train, run, minutes=minutes, method=method, seed=seed, quiet=quiet)
    predict_files(run, scans.test / "images", predictions)
    return evaluate(predictions, scans.test, json=folder / "scores" / f"{method}.json")


def _table(scores: dict[str, Evaluation]) -> Table:
    """Mean Dice and HD95 with 95% intervals, one column per method."""
    table = Table("mean of grey and white matter", *scores, title=f"{TEST} simulated test scans")
    for metric, unit, digits in (("dice", "", 4), ("hd95", " mm", 2)):
        cells = []
        for score in scores.values():
            low, high = score.interval(metric)
            cells.append(f"{score.mean(metric):.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})")
        table.add_row({"dice": "Dice", "hd95": "HD95"}[metric], *cells)
    return table


def _report(
    folder: Path, scans: SimulatedCohort, scores: dict[str, Evaluation], sentence: str, minutes: float, seed: int
) -> Path:
    """One page for both methods: the verdict, the table, the curves, every test scan with both predictions."""
    from foveate.io import case_stem, read_image, read_label
    from foveate.report.page import ReportCase, write_report

    dice = {(method, case.id): case.mean("dice") for method, score in scores.items() for case in score.cases}
    cases = []
    for path in sorted((scans.test / "images").iterdir()):
        image, label = read_image([path]), read_label(scans.test / "labels" / path.name).array[0]
        name = case_stem(path)
        for method in scores:
            prediction = read_label(folder / "predictions" / method / path.name).array[0]
            others = ", ".join(f"{other} {dice[other, name]:.3f}" for other in scores if other != method)
            cases.append(
                ReportCase(
                    f"{name}, {method}",
                    image.array[0],
                    image.spacing,
                    label,
                    prediction,
                    dice[method, name],
                    f"For the same scan: {others}.",
                    image.affine,
                )
            )
    logs = {method: (folder / method / "log.jsonl").read_text(encoding="utf-8").splitlines() for method in scores}
    run = json.loads((folder / BASELINE / "provenance.json").read_text(encoding="utf-8"))
    return write_report(
        folder,
        title="Foveate demo: few labels, many scans",
        subtitle=f"{LABELLED} labelled and {UNLABELLED} unlabelled scans, {TEST} for the test; "
        f"{minutes:g} minutes of training for each method",
        notes=[NOTE, sentence],
        table=[{"method": method, **row} for method, score in scores.items() for row in score.table()],
        curves={method: [json.loads(line) for line in lines] for method, lines in logs.items()},
        cases=cases,
        classes=CLASSES,
        command="foveate demo",
        provenance={"seed": seed, "minutes per method": minutes, "versions": run["versions"]},
    )
