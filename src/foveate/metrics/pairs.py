"""Which prediction belongs to which label, and what lies beside the labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from foveate.cohort import listing
from foveate.cohort.dicom_studies import find_series
from foveate.cohort.layouts import find_cohort
from foveate.cohort.tree import Tree, read_tree
from foveate.errors import InputError, Problem, refuse
from foveate.io import case_stem
from foveate.metrics.case import Classes

_LABEL_FOLDERS = ("labelsTr", "labels")


@dataclass(frozen=True)
class References:
    """The label files by case id, and what lies beside them.

    classes, tree: as declared by dataset.json, or None and {}. ignore: its ignore value. patients: case -> patient.
    """

    files: dict[str, Path]
    classes: Classes | None = None
    tree: Tree = field(default_factory=dict)
    ignore: int | None = None
    patients: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def find_references(labels: Path) -> References:
    """The references at ``labels``: a label file, a folder of them, or a dataset folder with labelsTr/ or labels/.

    dataset.json and patients.csv are read from that folder, or from its parent when the folder itself is
    called labelsTr, labelsTs or labels. Raises InputError when nothing is there or a side file is wrong.
    """
    if labels.is_file():
        return References({case_stem(labels): labels})
    inner = next((labels / name for name in _LABEL_FOLDERS if (labels / name).is_dir()), labels)
    files = list_images(inner)
    root = inner.parent if inner.name in (*_LABEL_FOLDERS, "labelsTs") else inner
    problems: list[Problem] = []
    classes, tree, ignore = _declared_classes(root / "dataset.json", problems)
    patients = listing.read_patients(root, files, problems)
    if not (root / "patients.csv").is_file() and next(find_series(root), None):  # DICOM says whose the scans are
        patients |= {case_stem(case.label): case.patient for case in find_cohort(root).labelled if case.label}
    if any(problem.severity == "refuse" for problem in problems):
        raise InputError(problem for problem in problems if problem.severity == "refuse")
    # patients.csv may well name cases that have no label: nothing to warn of here.
    return References(
        files, classes, tree, ignore, patients, [problem for problem in problems if problem.field != "case"]
    )


def list_images(folder: Path) -> dict[str, Path]:
    """Image files of a folder by case id. Raises InputError: no such folder, no image, two files of one case."""
    if not folder.is_dir():
        raise refuse(folder, "path", "nothing", "a folder of label maps, or one file", "Check the path.")
    problems: list[Problem] = []
    # A folder of links is a usual way to choose test cases: they may lead anywhere.
    images = listing.list_images(folder, Path(folder.resolve().anchor), problems)
    if refused := [problem for problem in problems if problem.severity == "refuse"]:
        raise InputError(refused)
    if not images:
        raise refuse(folder, "files", "no image file", "label maps (NIfTI, PNG or TIFF)", "Check the path.")
    return {case_stem(path): path for path in images}


def match_predictions(predictions: Path, references: References) -> dict[str, Path]:
    """Prediction file by case id. One file against one label need not share a name.

    Raises InputError when the path holds nothing, or when no prediction has the name of any label.
    """
    if predictions.is_file():
        if len(references.files) == 1:
            return {next(iter(references.files)): predictions}
        files = {case_stem(predictions): predictions}
    else:
        files = list_images(predictions)
    if not files.keys() & references.files.keys():
        found, expected = (", ".join(sorted(ids)[:3]) for ids in (files, references.files))
        raise refuse(
            predictions,
            "case ids",
            f"{found} ({len(files)} in all), none of which has a label",
            f"names of the label files, such as {expected}",
            "Name each prediction as its label file, or check the two paths.",
        )
    return files


def _declared_classes(path: Path, problems: list[Problem]) -> tuple[Classes | None, Tree, int | None]:
    if not path.is_file():
        return None, {}, None
    data = listing.read_json(path)
    labels = data.get("labels")
    if isinstance(labels, dict) and labels and all(key.isdigit() for key in labels):  # MSD: value -> name
        labels = {str(name): int(value) for value, name in labels.items()}
    classes, ignore = listing.read_classes(path, labels, problems)
    return classes or None, read_tree(path, data.get("tree"), classes, problems), ignore
