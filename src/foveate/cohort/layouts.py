"""From a folder to a cohort: recognises the layout by its folders and dataset.json; reads headers of DICOM alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foveate.cohort.box_table import with_boxes
from foveate.cohort.cohort import Case, Cohort
from foveate.cohort.layout_boxes import find_boxes, has_boxes
from foveate.cohort.layout_classes import class_folders, find_classes
from foveate.cohort.layout_dicom import find_dicom, has_studies
from foveate.cohort.layout_msd import find_msd
from foveate.cohort.layout_nnunet import find_nnunet
from foveate.cohort.layout_plain import find_plain
from foveate.cohort.layout_table import TABLE, find_table, tasks_of_table
from foveate.cohort.listing import read_json
from foveate.errors import InputError, Problem, refuse
from foveate.text import closest, one_form


@dataclass(frozen=True)
class Layout:
    """How a dataset may lie on disk. find: lists it; tasks: what its labels may be of, the usual one first."""

    find: Callable[[Path, dict[str, Any] | None], Cohort]
    tasks: tuple[str, ...] = ("segmentation",)


LAYOUTS = {
    "nnU-Net": Layout(find_nnunet, ("segmentation", "detection")),
    "MSD": Layout(find_msd, ("segmentation", "detection")),
    "plain": Layout(find_plain, ("segmentation", "detection")),
    "table": Layout(find_table, ("classification", "regression")),
    "class folders": Layout(find_classes, ("classification",)),
    "boxes": Layout(find_boxes, ("detection",)),
    "DICOM": Layout(find_dicom, ("segmentation", "detection")),
}
MAPS = ("images", "labels", "masks", "segmentations")
EXPECTED = (
    "one of: (1) nnU-Net raw: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz; "
    "(2) Medical Segmentation Decathlon: dataset.json with a 'training' list; "
    "(3) plain: images/CASE.nii.gz and labels/CASE.nii.gz; "
    "(4) classification: a folder for each class, CLASS/CASE.jpg, and unlabelled/; "
    "(5) classification or regression: images/CASE.png and labels.csv with case,label or case,value; "
    "(6) detection: images/CASE.png and annotations/CASE.xml (VOC) or annotations.json (COCO), or with "
    "--task detection the structures of the label maps of (1) to (3) and (7); "
    "(7) DICOM: STUDY/SERIES/*.dcm and labels/STUDY.nii.gz"
)


def find_cohort(root: Path | str, task: str | None = None) -> Cohort:
    """The cases under ``root``, with everything that the listing alone can see in ``cohort.problems``.

    task: what is to be predicted; what the layout says, if None.
    Raises InputError when the folder is none of the layouts, when its layout says nothing for the task, or when its
    dataset.json cannot be read.
    """
    root = Path(root)
    name, data = recognise(root, task)
    cohort = LAYOUTS[name].find(root, data)
    cohort = replace(cohort, task="detection") if task == "detection" else cohort
    return with_boxes(cohort) if cohort.task == "segmentation" else cohort


def task_of(root: Path | str, task: str | None = None) -> str:
    """What is to be predicted from the dataset in ``root``. Raises InputError as ``find_cohort`` does."""
    root = Path(root)
    name, _ = recognise(root, task)
    return tasks_of_table(root)[0] if name == "table" else task or LAYOUTS[name].tasks[0]


def recognise(root: Path, task: str | None = None) -> tuple[str, dict[str, Any] | None]:
    """Name of the layout, and what dataset.json says. Raises InputError as ``find_cohort`` does."""
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise refuse(root, "dataset", found, "a dataset folder", "Check the path.")
    known = sorted({name for layout in LAYOUTS.values() for name in layout.tasks})
    if task is not None and task not in known:
        raise refuse("configuration", "task", task, f"one of {', '.join(known)}", closest(task, known))
    path = root / "dataset.json"
    data = read_json(path) if path.is_file() else None
    name = _recognise(root, data, task)
    tasks = tasks_of_table(root) if name == "table" else LAYOUTS[name].tasks
    if task is not None and task not in tasks:
        fix = f"Leave --task out to train for {tasks[0]}, or arrange the files as docs/data.md says for {task}."
        raise refuse(root, "task", f"{task}, and the {name} layout", f"a dataset for {task}", fix)
    return name, data


def _recognise(root: Path, data: dict[str, object] | None, task: str | None) -> str:
    if data is not None and "training" in data and "channel_names" not in data:
        return "MSD"
    if (root / "imagesTr").is_dir():
        return "nnU-Net"
    if (root / "images").is_dir():
        maps = (root / "labels").is_dir()
        if has_boxes(root) and (task == "detection" or (task is None and not maps)):
            return "boxes"
        # A table beside labels/ may be anything: there it counts only where it is asked for.
        wanted = task in LAYOUTS["table"].tasks or (task is None and not maps)
        return "table" if wanted and (root / TABLE).is_file() else "plain"
    folders = class_folders(root)
    # Such names are of images and their label maps in folders that are called otherwise than the layouts want.
    maps = any(folder.name.casefold().endswith(MAPS) for folder in folders)
    if folders and (task == "classification" or not maps):
        return "class folders"
    if has_studies(root):
        return "DICOM"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir() if not entry.name.startswith("."))
    found = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "an empty folder"
    raise refuse(root, "layout", found, EXPECTED, "Arrange the files in one of these ways; labels may be missing.")


def read_ids(path: Path) -> list[str]:
    """Case ids from a text file, one a line; blank lines and lines that begin with # are skipped.

    Raises InputError when the file cannot be read or names no case.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise refuse(path, "file", error.strerror, "one case id a line", "Check the path.") from None
    except UnicodeDecodeError:
        raise refuse(path, "file", "no UTF-8 text", "one case id a line", "Save it as plain text.") from None
    ids = [one_form(line.strip()) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not ids:
        raise refuse(path, "case ids", "none", "one case id a line", "Name at least one labelled case.")
    return list(dict.fromkeys(ids))


def keep_labelled(cohort: Cohort, ids: Iterable[str], source: Path | str = "labelled") -> Cohort:
    """The cohort in which only ``ids`` keep their label; the other labels are never opened.

    Raises InputError naming every id that is no case (with the nearest one) or has no label file.
    """
    wanted = list(ids)
    cases: dict[str, Case] = {case.id: case for case in cohort.cases}
    problems = []
    for name in wanted:
        if name not in cases:
            expected = f"a case of {cohort.root}"
            problems.append(Problem(str(source), "case id", repr(name), expected, closest(name, cases)))
        elif not cases[name].labelled:
            fix = "Remove the line, or add the label file."
            problems.append(Problem(str(source), "case id", f"{name!r}, which has no label", "a labelled case", fix))
    if problems:
        raise InputError(problems)
    return cohort.keep_labels(wanted)
