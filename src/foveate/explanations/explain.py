"""``foveate explain``: every map of every scan, on the scan's own grid, with a picture and the check of each map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foveate.cohort.cohort import Case
from foveate.errors import InputError, Problem, refuse
from foveate.explanations.whole import WholeWork
from foveate.explanations.work import Work
from foveate.files import make_folder
from foveate.predict.files import channel_names, find_images, find_whole, oddities
from foveate.predict.predictor import AnyPredictor, Predictor, load
from foveate.predict.whole import WholePredictor


@dataclass(frozen=True)
class Explanation:
    """What was written. pictures: one per scan. notes: for people, such as which maps fail the check."""

    folder: Path
    pictures: list[Path]
    notes: list[str]


def explain(
    run: str | Path | AnyPredictor,
    input: str | Path,
    out: str | Path,
    *,
    layers: Sequence[str] = (),
    of: str | None = None,
    masks: str | Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Write into ``out/CASE/`` of each scan its prediction, every map on its own grid, and ``overview.png``.

    run, input: as ``predict_files`` takes them. out: a folder, absent or empty. layers: names of the layers of the
    network that Grad-CAM and Seg-Grad-CAM are taken at; by default the bottleneck and the last decoder stage but one.
    Maps are float32 NIfTI, TIFF for pictures; ``out/explain.json`` lists them with their checks. Maps that weigh
    channels go to ``channel_weights.csv``. progress: called with (scans done, scans in all).

    Of a model that answers for whole images there is no mask to write. Where its network says what each place adds to
    the answer, there is the mask of where that is most, and the boxes of its parts in ``explain.json``. of: the class
    whose evidence that is; by default the likeliest of each image. masks: folder of masks of some of the cases, by
    their ids, on which the threshold is chosen; without it each map has its own, by Otsu.

    The parameter-randomisation check of a map runs once, on the patch of the plan's size around the prediction in the
    first scan where the map is not the same everywhere in it; it is a property of the model more than of a scan, and
    costs as much as a few dozen patches for all maps that are checked on the same scan.

    Raises InputError before any work when there is nothing to explain, the model is a detector, a layer does not exist
    or ``out`` holds something; and at the end, when the other scans are done, with each scan that could not be read.
    """
    folder = Path(out)
    predictor = load(run, device=device) if isinstance(run, str | Path) else run
    work: Work
    if isinstance(predictor, Predictor):
        if given := [name for name, value in (("of", of), ("masks", masks)) if value is not None]:
            fix = "Leave it out: the mask of a segmentation is its answer."
            raise refuse("explain", given[0], "a value", "nothing, for a model that segments", fix)
        cases = find_images(Path(input), channel_names(predictor))
        work = Work(predictor, folder, layers)
    elif isinstance(predictor, WholePredictor):
        cases = find_whole(Path(input), channel_names(predictor))
        work = WholeWork(predictor, folder, layers, of, cases, Path(masks) if masks is not None else None)
    else:
        expected = "a model that segments or answers for whole images: no map of a detector is made"
        fix = "Look at the boxes, which foveate predict draws in OUT/pictures, and score them by foveate evaluate."
        raise refuse("explain", "task", predictor.plan.task, expected, fix)
    _check_output(folder, cases)
    problems: list[Problem] = []
    said: list[Problem] = []
    for number, case in enumerate(cases, 1):
        try:
            volume = predictor.read(case.images, case.missing, said)
            answer = predictor.predict(volume)
        except InputError as error:
            problems += [replace(problem, case=case.id) for problem in error.problems]
        else:
            work.explain(case, volume, answer)
        if progress is not None:
            progress(number, len(cases))
    if problems:
        raise InputError(problems)
    return Explanation(folder, work.pictures, [*work.notes, *oddities(said)])


def _check_output(folder: Path, cases: Sequence[Case]) -> None:
    """Refuse, before any work, a folder that holds something and cases that would share one."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found = "a folder that holds files" if folder.is_dir() else "a file"
        raise refuse(folder, "output", found, "a new or empty folder", "Choose another folder: nothing is replaced.")
    seen: dict[str, Case] = {}
    for case in cases:
        # Compared without case: "A" and "a" are one folder on macOS and Windows.
        if (other := seen.setdefault(case.id.lower(), case)) is not case:
            raise refuse(
                folder / case.id, "output", f"cases {other.id} and {case.id}", "one case a folder", "Rename one."
            )
    make_folder(folder)
