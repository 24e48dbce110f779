"""``foveate evaluate``: what the predictions hold says which task they are of, and so how they are scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from foveate.cohort.boxes import PREDICTIONS
from foveate.cohort.layouts import read_ids
from foveate.errors import refuse
from foveate.metrics.case import Classes
from foveate.metrics.evaluation import evaluate_labels, writable
from foveate.metrics.result import Evaluation
from foveate.metrics.tables import evaluate_table
from foveate.metrics.task_result import TaskEvaluation


def _evaluate_boxes(path: Path, data: Path, cases: Sequence[str] | None) -> TaskEvaluation:
    from foveate.metrics.boxes import evaluate_boxes  # which needs torch; the others start without it

    return evaluate_boxes(path, data, cases)


# File that `foveate predict` wrote -> how it is scored (file, dataset folder, ids or None); without one, label maps.
OUTPUTS: dict[str, Callable[[Path, Path, Sequence[str] | None], TaskEvaluation]] = {
    "predictions.csv": evaluate_table,
    PREDICTIONS: _evaluate_boxes,
}


def evaluate(
    predictions: Path | str,
    labels: Path | str,
    *,
    json: Path | str | None = None,
    classes: Classes | None = None,
    tolerance_mm: float | None = None,
    cases: Sequence[str] | Path | str | None = None,
    workers: int | None = None,
) -> Evaluation | TaskEvaluation:
    """Score what ``foveate predict`` wrote against the dataset that says what is true.

    predictions: folder with predictions.csv (classes, values), predictions.json (boxes) or label maps, or the file
    itself. labels: the dataset folder; for label maps also their folder or a file. json: where to write the result.
    cases: only these ids, or those that a file names, one a line. classes, tolerance_mm (1 by default), workers: of
    label maps alone, see ``evaluate_labels``.

    A case of a table goes with the dataset's case of the same id, or of the same last part where ids differ only by
    folders. Raises InputError naming everything that cannot be scored.
    """
    source = Path(predictions)
    if isinstance(cases, str | Path):
        cases = read_ids(Path(cases))
    output = next((path for path in (source, *(source / name for name in OUTPUTS)) if path.is_file()), None)
    score = next((score for name, score in OUTPUTS.items() if output and output.suffix == Path(name).suffix), None)
    if not source.exists():
        raise refuse(source, "predictions", "nothing", "what foveate predict wrote", "Check the path.")
    if output is None or score is None:
        tolerance = 1.0 if tolerance_mm is None else tolerance_mm
        return evaluate_labels(
            predictions, labels, json=json, classes=classes, tolerance_mm=tolerance, cases=cases, workers=workers
        )
    if tolerance_mm is not None or classes is not None:
        field = "--tolerance-mm" if classes is None else "classes"
        raise refuse("evaluate", field, f"a value, and {output.name}", "label maps", "Leave it out.")
    target = writable(json)
    if not Path(labels).is_dir():
        found = "a file" if Path(labels).exists() else "nothing"
        raise refuse(labels, "path", found, "the dataset folder", "Check the path.")
    evaluation = score(output, Path(labels), cases)
    if target is not None:
        evaluation.write(target)
    return evaluation
