"""Class folders: CLASS/CASE.ext, one folder for each class; pictures in unlabelled/ or unlabeled/ have no label.

A case is called by its path below the dataset folder, without suffix: ``glioma/image_3``. patients.csv may say which
cases are of one patient.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from foveate.cohort.cohort import Case, Cohort
from foveate.cohort.listing import leaves, list_images, read_patients, recorded_patients
from foveate.errors import Problem
from foveate.io import PICTURE_SUFFIXES, case_stem, image_suffix
from foveate.text import one_form

JOINED = ";"  # between the labels of one case
UNLABELLED = ("unlabelled", "unlabeled")  # in any case of letters


def is_unlabelled(folder: Path) -> bool:
    """Whether a folder's pictures have no label, by its name."""
    return folder.name.strip().casefold() in UNLABELLED


def class_folders(root: Path) -> list[Path]:
    """The folders of ``root`` that hold images, the unlabelled one aside; sorted by name."""
    folders = [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    folders.sort(key=lambda folder: one_form(folder.name))
    return [folder for folder in folders if not is_unlabelled(folder) and any(map(image_suffix, folder.iterdir()))]


def find_classes(root: Path, data: dict[str, Any] | None) -> Cohort:
    """A folder without any image is no class, and is said."""
    problems: list[Problem] = []
    folders = class_folders(root)
    names = [one_form(folder.name) for folder in folders]
    problems += judge_names(root, names)
    files: dict[str, tuple[Path, str | None]] = {}
    without = sorted(entry for entry in root.iterdir() if entry.is_dir() and is_unlabelled(entry))
    for folder in [*folders, *without]:
        for image in list_images(folder, root, problems):
            name = one_form(folder.name)
            files[f"{name}/{case_stem(image)}"] = image, None if folder in without else name
    for entry in sorted(root.iterdir()):
        skipped = entry.is_dir() and entry not in folders and entry not in without
        if skipped and not entry.name.startswith(".") and not leaves(entry, root):
            fix = "It is no class. Put the pictures of a class directly into its folder."
            problems.append(Problem(str(entry), "folder", "no image", "pictures of one class", fix, "warn"))
    problems += one_kind_of_file(root, [image for image, _ in files.values()])
    recorded = recorded_patients({case: image for case, (image, _) in files.items()})
    patients = read_patients(root, files, problems, recorded)
    pictures = any(image_suffix(image) in PICTURE_SUFFIXES for image, _ in files.values())
    cases = tuple(
        Case(case, (image,), None, patients[case], target=None if label is None else (label,))
        for case, (image, label) in sorted(files.items())
    )
    classes: dict[str, int | tuple[int, ...]] = {name: number for number, name in enumerate(names)}
    return Cohort(
        root, "class folders", 2 if pictures else 3, cases, (), classes, None, tuple(problems), task="classification"
    )


def judge_names(file: Path, names: Iterable[str]) -> list[Problem]:
    """Names of classes that differ only by case or spaces, one class most likely; those of other columns; and those
    that would read as several."""
    groups: dict[str, list[str]] = {}
    names = list(names)
    taken = [name for name in names if name in ("case", "label")]
    for name in names:
        groups.setdefault("".join(name.split()).casefold(), []).append(name)
    fix = "Write the name in one way everywhere; if they are two classes, name them so that people can tell."
    expected = "names that differ by more than case or space"
    columns = "other names: predictions.csv has columns of these"
    joined = f"names without {JOINED}, which stands between the labels of a case"
    return [
        *(Problem(str(file), "class names", repr(name), columns, "Rename the class.") for name in taken),
        *(Problem(str(file), "class names", repr(name), joined, "Rename it.") for name in names if JOINED in name),
        *(
            Problem(str(file), "class names", " and ".join(map(repr, group)), expected, fix)
            for group in groups.values()
            if len(group) > 1
        ),
    ]


def one_kind_of_file(folder: Path, images: list[Path]) -> list[Problem]:
    """Pictures and volumes do not train together; and there must be something."""
    if not images:
        fix = "Put the images there, one file for each case."
        return [Problem(str(folder), "files", "no image", "at least one case", fix)]
    pictures = sum(image_suffix(image) in PICTURE_SUFFIXES for image in images)
    if 0 < pictures < len(images):
        found = f"{pictures} pictures and {len(images) - pictures} NIfTI files"
        return [
            Problem(str(folder), "files", found, "one kind of image", "Keep pictures and volumes in separate datasets.")
        ]
    return []
