"""Medical Segmentation Decathlon: dataset.json lists the training pairs; 4-D files hold several channels.

Entries of ``training`` without a label, or that are plain paths, are unlabelled; ``test`` is never training data.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from foveate.cohort.cohort import Case, Cohort
from foveate.cohort.listing import class_value, leaves, list_images, read_channels, read_classes, read_patients
from foveate.cohort.tree import read_tree
from foveate.errors import Problem
from foveate.io import PICTURE_SUFFIXES, case_stem, image_suffix


def find_msd(root: Path, data: dict[str, Any] | None) -> Cohort:
    """The cases that ``training`` lists, in the order of their ids."""
    path = root / "dataset.json"
    data = data or {}
    problems: list[Problem] = []
    channels = read_channels(path, data.get("modality"), "modality", problems)
    classes, ignore = read_classes(path, _reversed(path, data.get("labels"), problems), problems)
    tree = read_tree(path, data.get("tree"), classes, problems)
    entries = data["training"]
    if not isinstance(entries, list):
        expected = "a list of {image, label}"
        problems.append(Problem(str(path), "training", type(entries).__name__, expected, "Correct dataset.json."))
        entries = []
    pairs: dict[str, tuple[Path, Path | None]] = {}
    forks = 0
    for number, entry in enumerate(entries):
        field = f"training[{number}]"
        image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)
        if isinstance(image, str) and PurePosixPath(image).name.startswith("._"):
            forks += 1
            continue
        image_path = _path(root, image, f"{field}.image", problems)
        label_path = _path(root, label, f"{field}.label", problems) if label else None
        if image_path is None:
            continue
        case = case_stem(image_path)
        if case in pairs:
            problems.append(Problem(str(path), field, f"case {case!r} again", "each case once", "Remove one."))
            continue
        pairs[case] = (image_path, _present(label_path, field, path, problems))
    if forks:
        found = f"{forks} macOS resource files (._*)"
        problems.append(Problem(str(path), "training", found, "images", "They are skipped.", "warn"))
    if not pairs:
        problems.append(Problem(str(path), "training", "no image", "at least one case", "List the training cases."))
    problems += _folder_problems(root, pairs)
    patients = read_patients(root, pairs, problems)
    cases = tuple(Case(case, (image,), label, patients[case]) for case, (image, label) in sorted(pairs.items()))
    picture = any(image_suffix(image) in PICTURE_SUFFIXES for image, _ in pairs.values())
    return Cohort(root, "MSD", 2 if picture else 3, cases, channels, classes, ignore, tuple(problems), tree)


def _reversed(path: Path, labels: object, problems: list[Problem]) -> object:
    """MSD's {"1": "name"} as nnU-Net's {"name": 1}."""
    if not isinstance(labels, dict):
        return labels
    turned: dict[str, object] = {}
    for key, name in labels.items():
        value = class_value(int(key)) if key.isascii() and key.isdigit() else None
        if value is None or not isinstance(name, str):
            expected = '"value": "name", for instance "1": "liver"'
            fix = "MSD maps label values to names; nnU-Net's direction is the reverse."
            problems.append(Problem(str(path), f"labels.{key}", repr(name)[:80], expected, fix))
        elif value != 0:
            if name in turned:
                problems.append(Problem(str(path), f"labels.{key}", f"{name!r} again", "distinct names", "Rename it."))
            turned[name] = value
    return turned or {"background": 0}


def _path(root: Path, given: object, field: str, problems: list[Problem]) -> Path | None:
    """A path of dataset.json below ``root``; None, with the reason noted, when it may not or cannot be used."""
    source = str(root / "dataset.json")
    if not isinstance(given, str) or not given:
        problems.append(Problem(source, field, repr(given)[:80], "a path", "Write the path of the file as text."))
        return None
    if "\0" in given:
        problems.append(Problem(source, field, repr(given)[:80], "a path", "Correct the entry."))
        return None
    path = root / given
    if leaves(path, root):
        fix = "Copy the file into the dataset folder and correct the entry."
        problems.append(Problem(source, field, f"{given!r}, which leads out of the dataset", f"below {root}", fix))
        return None
    if not image_suffix(path):
        problems.append(Problem(source, field, repr(given), "an image file", "Convert the file to NIfTI."))
        return None
    # "./imagesTr/x.nii.gz" -> root/imagesTr/x.nii.gz, also when the entry wanders through "..".
    return root.joinpath(*path.resolve().relative_to(root.resolve()).parts) if ".." in path.parts else path


def _present(label: Path | None, field: str, source: Path, problems: list[Problem]) -> Path | None:
    if label is None or label.exists():
        return label
    fix = "The case counts as unlabelled. Restore the file if there should be a label."
    problems.append(Problem(str(source), f"{field}.label", f"no file {label.name}", "the label file", fix, "warn"))
    return None


def _folder_problems(root: Path, pairs: dict[str, tuple[Path, Path | None]]) -> list[Problem]:
    """What the folders hold beside what dataset.json lists: clashing names, labels and images without entry."""
    problems: list[Problem] = []
    images = {image for image, _ in pairs.values()}
    labels = {label for _, label in pairs.values() if label is not None}
    for folder in sorted({image.parent for image in images}):
        if not folder.is_dir():
            continue
        extra = set(list_images(folder, root, problems)) - images
        if extra:
            found = f"{len(extra)} images that 'training' does not list, for instance {min(extra).name}"
            fix = "They are not used. Add entries without label to use them as unlabelled scans."
            problems.append(Problem(str(folder), "files", found, "listed images", fix, "warn"))
    for folder in sorted({label.parent for label in labels}):
        for path in list_images(folder, root, problems):
            if path not in labels and case_stem(path) not in pairs:
                fix = "Add the image, or remove the label."
                problems.append(Problem(str(path), "image", "a label without image", "its image", fix))
    return problems
