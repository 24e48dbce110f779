"""Plain folders: images/CASE.ext and labels/CASE.ext; an image without label file is unlabelled.

A dataset.json with nnU-Net's keys may name the channels and classes. Names that end in _0000, _0001, ... are
channels when that holds for every image, each case has the same number of them, and no label carries the number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foveate.cohort.cohort import Case, Cohort
from foveate.cohort.layout_nnunet import CHANNEL, first_images, group_channels, match_labels
from foveate.cohort.listing import list_images, read_channels, read_classes, read_patients, recorded_patients
from foveate.cohort.tree import read_tree
from foveate.errors import Problem
from foveate.io import PICTURE_SUFFIXES, case_stem, image_suffix

Declared = tuple[tuple[str, ...], dict[str, int | tuple[int, ...]], int | None, dict[str, tuple[str, ...]]]


def read_declared(root: Path, data: dict[str, Any], problems: list[Problem]) -> Declared:
    """Channels, classes, the label to ignore and the label tree, as far as dataset.json declares them."""
    path = root / "dataset.json"
    names = read_channels(path, data["channel_names"], "channel_names", problems) if "channel_names" in data else ()
    classes, ignore = read_classes(path, data["labels"], problems) if "labels" in data else ({}, None)
    return names, classes, ignore, read_tree(path, data.get("tree"), classes, problems)


def find_plain(root: Path, data: dict[str, Any] | None) -> Cohort:
    """Channels and classes stay empty where nothing declares them; the check reads them off the files."""
    problems: list[Problem] = []
    names, classes, ignore, tree = read_declared(root, data or {}, problems)
    images = list_images(root / "images", root, problems)
    folder = root / "labels"
    labels = list_images(folder, root, problems) if folder.is_dir() else []
    if numbered(images, labels):
        groups = group_channels(images, problems)
    else:
        groups = {case_stem(image): {0: image} for image in images}
    pictures = [image for image in images if image_suffix(image) in PICTURE_SUFFIXES]
    if pictures and len(pictures) < len(images):
        found = f"{len(pictures)} pictures and {len(images) - len(pictures)} NIfTI files"
        fix = "Keep pictures and volumes in separate datasets."
        problems.append(Problem(str(root / "images"), "files", found, "one kind of image", fix))
    if not images:
        fix = "Put the images there, one file for each case."
        problems.append(Problem(str(root / "images"), "files", "no image", "at least one case", fix))
    label_of = match_labels(labels, groups, problems)
    patients = read_patients(root, groups, problems, recorded_patients(first_images(groups)))
    cases = tuple(
        Case(case, tuple(files[number] for number in sorted(files)), label_of.get(case), patients[case])
        for case, files in sorted(groups.items())
    )
    return Cohort(root, "plain", 2 if pictures else 3, cases, names, classes, ignore, tuple(problems), tree)


def numbered(images: list[Path], labels: list[Path]) -> bool:
    """Whether the four digits at the end of the names count channels, not cases."""
    matches = [CHANNEL.fullmatch(case_stem(image)) for image in images]
    groups: dict[str, set[int]] = {}
    for match in matches:
        if match is None:
            return False
        groups.setdefault(match[1], set()).add(int(match[2]))
    counts = {len(numbers) for numbers in groups.values()}
    stems = {case_stem(label) for label in labels}
    return (
        len(counts) == 1
        and all(numbers == set(range(len(numbers))) for numbers in groups.values())
        and not stems & {match[0] for match in matches if match}
        and (len(groups) > 1 or bool(stems & set(groups)))
    )
