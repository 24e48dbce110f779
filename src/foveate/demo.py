"""The demo: simulate a cohort, train the baseline and a method with unlabelled scans alike, compare, report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from foveate.cohort.simulate import CLASSES, SimulatedCohort, simulate_cohort
from foveate.files import make_folder

if TYPE_CHECKING:
    from foveate.cohort.plan import Plan
    from foveate.metrics.result import Evaluation
    from foveate.report.page import ReportCase

LABELLED, UNLABELLED, TEST = 4, 60, 20
MINUTES = 1.7  # of training per method: the whole demo then takes less than five minutes on two cores
BASELINE, COMPARED = "supervised", "mean_teacher"
NOTE = (
    "These scans are simulated on real anatomy: the ICBM 2009a template of the brain (T1 with maps of grey and white "
    "matter, as installed by nilearn). Each subject is a random smooth deformation of it with its own contrast, bias "
    "field and noise. The scores compare two ways of training on these scans, with one seed; they say nothing about "
    "other scans."
)
FEW_STEPS = 50  # of training, below which the comparison says little: a busy or slow machine
UNEVEN = 2  # times the steps of the other method, from which the comparison says more of what else the machine did
WORST = 5
CHOICE = f"Shown below are, for each method, the {WORST} test scans it did worst on and the one it did best on."


def run_demo(out: Path = Path("demo"), minutes: float | None = None, seed: int = 0, quiet: bool = False) -> Path:
    """Run the demo in a new numbered folder under ``out`` and return the path of its report.html.

    minutes: of training, per method. Nothing is downloaded, opened or overwritten.

    Raises InputError when nilearn, which ships the template, is not installed.
    """
    from foveate.engine.provenance import versions
    from foveate.metrics.result import paired_difference
    from foveate.report.page import write_report
    from foveate.report.run import read_log

    console = Console(quiet=quiet)
    folder = new_folder(out)
    started = time.monotonic()
    console.print(f"Simulating {LABELLED} labelled, {UNLABELLED} unlabelled and {TEST} test scans on real anatomy.")
    scans = simulate_cohort(folder / "scans", LABELLED, UNLABELLED, TEST, seed)
    method, minutes = COMPARED, MINUTES if minutes is None else minutes
    plan = _plan(scans)
    scores = {name: _train_and_score(folder, scans, plan, name, minutes, seed, quiet) for name in (BASELINE, method)}
    difference = paired_difference(scores[method], scores[BASELINE])
    logs = {name: read_log(folder / name) for name in scores}
    steps = {name: max((record["step"] for record in log), default=0) for name, log in logs.items()}
    sentence = verdict(method, *difference) + hardly_trained(steps)
    console.print(_table(scores, steps), sentence, sep="\n")
    report = write_report(
        folder,
        title="Foveate demo: few labels, many scans",
        subtitle=f"{LABELLED} labelled and {UNLABELLED} unlabelled scans, {TEST} for the test; "
        f"{minutes:g} minutes of training for each method",
        notes=[NOTE, sentence, CHOICE],
        table=[{"method": name, "steps": steps[name], **row} for name in scores for row in scores[name].table()],
        curves=logs,
        cases=[case for name in scores for case in _cases(folder, scans, scores, name)],
        classes=CLASSES,
        command="foveate demo",
        provenance={"seed": seed, "minutes per method": minutes, "versions": versions()},
    )
    console.print(f"{(time.monotonic() - started) / 60:.1f} minutes in all. The report: {report}", soft_wrap=True)
    return report


def verdict(method: str, mean: float, low: float, high: float, score: str = "mean Dice", things: str = "scans") -> str:
    """One sentence on the paired difference in a score (method minus baseline) and its 95% interval."""
    numbers = f"{mean:+.4f} {score}, 95% interval {low:+.4f} to {high:+.4f} over the test {things}"
    if low > 0:
        return f"{method} did better than {BASELINE} here: {numbers}."
    if high < 0:
        return f"{method} did worse than {BASELINE} here: {numbers}."
    return f"{method} and {BASELINE} cannot be told apart here: {numbers}."


def hardly_trained(steps: Mapping[str, int]) -> str:
    """What to add where the machine was too slow, or too busy, for the time."""
    fewest, most = min(steps.values()), max(steps.values())
    if fewest < FEW_STEPS:
        return f" With fewer than {FEW_STEPS} steps, as here, a model is hardly trained: give the demo more minutes."
    if most < UNEVEN * fewest:
        return ""
    return f" One had {fewest} steps and another {most} in the same time: the machine was busy. Run the demo again."


def new_folder(out: Path) -> Path:
    """``out/1``, or the next number: what an earlier demo left, or anybody else, stays."""
    make_folder(out)
    number = 1
    while True:
        try:
            (out / str(number)).mkdir()
            return out / str(number)
        except FileExistsError:
            number += 1


def _plan(scans: SimulatedCohort) -> Plan:
    """One plan for both methods, so that they train the same network: half of what two cores take in half a second.

    It is not fitted to the machine at hand, so that the demo is the same picture everywhere.
    """
    from foveate.cohort.check import check
    from foveate.cohort.fingerprint import fingerprint
    from foveate.cohort.planning import CPU, make_plan

    report = check(scans.train)
    return make_plan(report.cohort, fingerprint(report), CPU.scaled(0.5))


def _train_and_score(
    folder: Path, scans: SimulatedCohort, plan: Plan, method: str, minutes: float, seed: int, quiet: bool
) -> Evaluation:
    """Train ``method`` by ``plan`` in ``folder/method``, predict the test scans, score them."""
    from foveate.engine.train import train
    from foveate.metrics.evaluation import evaluate_labels
    from foveate.predict.files import predict_files

    run, predictions = folder / method, folder / "predictions" / method
    run.mkdir()
    plan.write(run / "plan.json")
    train(scans.train, run, minutes=minutes, method=method, seed=seed, quiet=quiet)
    predict_files(run, scans.test / "images", predictions, overwrite=True)
    return evaluate_labels(predictions, scans.test, json=folder / "scores" / f"{method}.json")


def _table(scores: dict[str, Evaluation], steps: dict[str, int]) -> Table:
    """One row per method: mean Dice and HD95 of both tissues with 95% intervals, and the steps that the time gave."""
    table = Table("method", "mean Dice", "HD95 (mm)", "steps", title=f"{TEST} simulated test scans")
    for method, score in scores.items():
        cells = []
        for metric, digits in (("dice", 3), ("hd95", 2)):
            low, high = score.interval(metric)
            cells.append(f"{score.mean(metric):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
        table.add_row(method, *cells, str(steps[method]))
    return table


def _cases(folder: Path, scans: SimulatedCohort, scores: dict[str, Evaluation], method: str) -> list[ReportCase]:
    """The test scans that ``method`` did worst on, and its best one, with its prediction."""
    from foveate.io import read_image, read_label
    from foveate.report.page import ReportCase

    cases = []
    ranked = scores[method].cases  # worst first
    for score in [*ranked[:WORST], *ranked[WORST:][-1:]]:
        name = f"{score.id}.nii.gz"
        image = read_image([scans.test / "images" / name])
        others = {other: case.mean("dice") for other in scores for case in scores[other].cases if case.id == score.id}
        cases.append(
            ReportCase(
                f"{score.id}, {method}",
                image.array[0],
                image.spacing,
                read_label(scans.test / "labels" / name).array[0],
                read_label(folder / "predictions" / method / name).array[0],
                score.mean("dice"),
                "The same scan: " + ", ".join(f"{other} {dice:.3f}" for other, dice in others.items()) + ".",
                image.affine,
            )
        )
    return cases
