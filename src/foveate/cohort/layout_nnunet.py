"""nnU-Net raw: imagesTr/{case}_{0000}.ext, labelsTr/{case}.ext, dataset.json; imagesTs is never training data.

A case in imagesTr without a file in labelsTr is unlabelled; one without the file of a channel has that modality
missing, which the check reports and some networks take.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.cohort.cohort import Case, Cohort
from foveate.cohort.listing import list_images, read_channels, read_classes, read_patients
from foveate.cohort.tree import read_tree
from foveate.errors import Problem, refuse
from foveate.io import IMAGE_SUFFIXES, PICTURE_SUFFIXES, case_stem, image_suffix

CHANNEL = re.compile(r"(.+)_(\d{4})")


def find_nnunet(root: Path, data: dict[str, Any] | None) -> Cohort:
    """Raises InputError when dataset.json is missing."""
    path = root / "dataset.json"
    if data is None:
        fix = "Write it, or rename the folders to images/ and labels/, which need none."
        raise refuse(path, "file", "nothing", "channel_names, labels and file_ending", fix)
    problems: list[Problem] = []
    channels = read_channels(path, data.get("channel_names"), "channel_names", problems)
    classes, ignore = read_classes(path, data.get("labels"), problems)
    tree = read_tree(path, data.get("tree"), classes, problems)
    ending = data.get("file_ending")
    if ending not in IMAGE_SUFFIXES:
        expected = "one of " + ", ".join(IMAGE_SUFFIXES)
        found = "nothing" if ending is None else repr(ending)
        problems.append(Problem(str(path), "file_ending", found, expected, "Correct it, or convert the images."))
        ending = None
    images = _with_ending(list_images(root / "imagesTr", root, problems), ending, problems)
    folder = root / "labelsTr"
    labels = _with_ending(list_images(folder, root, problems), ending, problems) if folder.is_dir() else []
    groups = group_channels(images, problems)
    picture = bool(images) and image_suffix(images[0]) in PICTURE_SUFFIXES
    if channels:
        problems += _unexpected_channels(groups, len(channels))
    label_of = match_labels(labels, groups, problems)
    patients = read_patients(root, groups, problems)
    cases = tuple(
        Case(
            case,
            tuple(files[number] for number in sorted(files)),
            label_of.get(case),
            patients[case],
            missing_channels(files, len(channels)),
        )
        for case, files in sorted(groups.items())
    )
    if not cases:
        fix = "Put the images there, named CASE_0000" + str(ending or ".nii.gz") + "."
        problems.append(Problem(str(root / "imagesTr"), "files", "no image", "at least one case", fix))
    return Cohort(root, "nnU-Net", 2 if picture else 3, cases, channels, classes, ignore, tuple(problems), tree)


def _with_ending(files: list[Path], ending: str | None, problems: list[Problem]) -> list[Path]:
    kept = [path for path in files if ending in (None, image_suffix(path))]
    for path in sorted(set(files) - set(kept)):
        fix = "It is not read; convert it, or correct file_ending in dataset.json."
        problems.append(Problem(str(path), "name", path.name, f"file_ending {ending}", fix, "warn"))
    return kept


def group_channels(images: list[Path], problems: list[Problem]) -> dict[str, dict[int, Path]]:
    """{case: {channel number: file}} from names that end in _0000, _0001, ..."""
    groups: dict[str, dict[int, Path]] = {}
    for path in images:
        match = CHANNEL.fullmatch(case_stem(path))
        if match is None:
            fix = "Rename it: CASE_0000 is the first channel of CASE."
            problems.append(Problem(str(path), "name", path.name, "a channel number at the end (_0000)", fix))
        else:
            groups.setdefault(match[1], {})[int(match[2])] = path
    return groups


def first_images(groups: Mapping[str, Mapping[int, Path]]) -> dict[str, Path]:
    """The image of each case that has the lowest number."""
    return {case: files[min(files)] for case, files in groups.items()}


def missing_channels(files: Mapping[int, Path], count: int) -> tuple[int, ...]:
    """Which of ``count`` channels have no file among the numbered ones of a case."""
    if set(files) == {0} and image_suffix(files[0]) in PICTURE_SUFFIXES:
        return ()  # one RGB file may hold all channels; its content is checked when it is read
    return tuple(number for number in range(count) if number not in files)


def _unexpected_channels(groups: dict[str, dict[int, Path]], count: int) -> list[Problem]:
    problems = []
    for case, files in sorted(groups.items()):
        if extra := sorted(number for number in files if number >= count):
            found = "unexpected " + ", ".join(f"_{number:04d}" for number in extra)
            expected = f"at most {count} files, _0000 on"
            fix = "Remove the files, or correct channel_names in dataset.json."
            problems.append(Problem(str(files[extra[0]].parent / case), "channels", found, expected, fix, case=case))
    return problems


def match_labels(labels: list[Path], cases: dict[str, Any], problems: list[Problem]) -> dict[str, Path]:
    """{case: label file}; a label whose image is missing is noted as refused."""
    found = {}
    folded = {case.casefold(): case for case in cases}
    for path in labels:
        stem = case_stem(path)
        if stem in cases:
            found[stem] = path
            continue
        near = folded.get(stem.casefold())
        fix = f"Rename it to {near}{image_suffix(path)}." if near else "Add the image, or remove the label."
        expected = f"an image of case {stem!r}"
        what = f"a label whose image is called {near}" if near else "a label without image"
        problems.append(Problem(str(path), "image", what, expected, fix))
    return found
