"""The demo of classification: simulate pictures, train the baseline and a method with unlabelled ones, compare."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.cohort.simulate_pictures import simulate_pictures
from foveate.demo_tasks import Tour, run_tour

if TYPE_CHECKING:
    from foveate.metrics.task_result import TaskEvaluation
    from foveate.report.page import ReportCase

LABELLED, UNLABELLED, TEST = 20, 300, 300  # pictures: labelled ones of each class
NOTE = (
    "These pictures are simulated on real anatomy: slices of the ICBM 2009a template of the brain (T1, as installed by "
    "nilearn), each under a random smooth deformation with its own contrast, shading and noise. The lesions are drawn. "
    "The scores compare two ways of training on these pictures, with one seed; they say nothing about other pictures."
)
CHOICE = "Shown below are, for each method, pictures that it got wrong, those that it was surest of first."
WORST = 6


def run_demo(out: Path = Path("demo"), minutes: float | None = None, seed: int = 0, quiet: bool = False) -> Path:
    """The demo, as ``run_tour`` runs it. Raises InputError when nilearn, which ships the template, is not installed."""
    tour = Tour(
        task="classification",
        title="few labels, many pictures",
        pictures=f"{LABELLED} labelled pictures of each class and {UNLABELLED} unlabelled ones",
        test=TEST,
        notes=(NOTE, CHOICE),
        compared=("accuracy", "accuracy"),
        shown=("accuracy", "macro_f1", "auroc", "ece"),
        printed={"accuracy": "accuracy", "ece": "calibration error"},
        simulate=lambda folder: simulate_pictures(folder, LABELLED, UNLABELLED, TEST, seed),
        score=partial(_train_and_score, seed=seed, quiet=quiet),
        cases=_cases,
    )
    return run_tour(tour, out, minutes, seed, quiet)


def _train_and_score(folder: Path, method: str, minutes: float, *, seed: int, quiet: bool) -> TaskEvaluation:
    """Train ``method`` in ``folder/method``, predict the test pictures, score them."""
    from foveate.engine.train import train
    from foveate.metrics.tables import evaluate_table
    from foveate.predict.files import predict_files

    train_folder, test = folder / "pictures" / "train", folder / "pictures" / "test"
    train(train_folder, folder / method, minutes=minutes, method=method, seed=seed, quiet=quiet)
    (table,) = predict_files(folder / method, test, folder / "predictions" / method, overwrite=True)
    found = evaluate_table(table, test)
    (folder / "scores").mkdir(exist_ok=True)
    found.write(folder / "scores" / f"{method}.json")
    return found


def _cases(folder: Path, method: str, scores: TaskEvaluation) -> list[ReportCase]:
    """Test pictures that ``method`` got wrong, with its answer."""
    import numpy as np

    from foveate.io import read_image
    from foveate.report.page import ReportCase

    out = []
    for case in [case for case in scores.cases if not case["right"]][:WORST]:
        image = read_image([folder / "pictures" / "test" / f"{case['case']}.png"]).array[0]
        caption = f"Label: {case['label']}. Answer: {case['predicted']}."
        nothing = np.zeros(image.shape, np.uint8)
        out.append(ReportCase(f"{case['case']}, {method}", image, (1.0, 1.0), None, nothing, None, caption))
    return out
