"""Folders of DICOM series as studies: what each series is called, which share a grid, and names that tell no secret.

The series of one folder are a study; those that lie in the top folder itself are one where they share StudyInstanceUID
or frame of reference. The modalities of a study are the series that share a frame of reference and a grid; where there
are several such groups, the largest. Names come from folders, which the user sees and may change. A name that is a UID,
holds a word of the patient's name, or is no plain file name gives way to a hash of the UID.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from foveate.cohort.listing import leaves
from foveate.errors import Problem
from foveate.io import corner_distance, is_series, tolerance
from foveate.io.dicom_fields import words
from foveate.io.dicom_header import Header
from foveate.io.dicom_series import Series, first_header, read_series
from foveate.io.stream import unreadable
from foveate.text import one_form

DEPTH = 4  # folders below the top one in which series are looked for
UID = re.compile(r"[0-9]+(\.[0-9]+){2,}")
SAFE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._ -]{0,98}[A-Za-z0-9_-])?")


@dataclass(frozen=True)
class Scan:
    """A series folder. name: of its modality. id: fit for a file name. header: None where no image can be used."""

    folder: Path
    name: str
    id: str
    header: Header | None

    @property
    def modality(self) -> str:
        """CT, MR, ...; "" where nothing says."""
        return "" if self.header is None else self.header.modality


@dataclass(frozen=True)
class Group:
    """The series of one study, whatever they show. folder: that the study is called by; it may be that of a series.

    id and called: as of Study. flat: a series folder stands for its study, and its name for no modality.
    """

    id: str
    called: str
    folder: Path
    scans: tuple[Scan, ...]
    flat: bool

    @property
    def images(self) -> list[Scan]:
        """Without the localisers that lie beside images."""
        return [s for s in self.scans if len(self.scans) == 1 or s.header is None or not s.header.localiser]


@dataclass(frozen=True)
class Study:
    """id: fit for a file name. called: as its folder is, joined by ``_`` from the dataset folder on.

    channels: modality -> folder, of series on one grid. patient: only ever compared. found: names of all its series.
    """

    id: str
    called: str
    channels: dict[str, Path]
    patient: str = field(repr=False)
    found: tuple[str, ...] = ()


def find_series(root: Path, problems: list[Problem] | None = None, depth: int = DEPTH) -> Iterator[Path]:
    """Every folder at most ``depth`` below ``root`` that holds DICOM files, by path; hidden ones are skipped.

    problems: takes note of links that lead out of ``root``, which are not followed; without it they are.
    """
    if is_series(root):
        yield root
    yield from _below(root, root, problems, depth) if depth else ()


def _below(folder: Path, root: Path, problems: list[Problem] | None, depth: int) -> Iterator[Path]:
    try:
        inside = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error) from error
    for entry in inside:
        if problems is not None and leaves(entry, root):
            fix = "Copy the series into the dataset folder."
            problems.append(Problem(str(entry), "link", "a link out of the dataset", f"folders inside {root}", fix))
            continue
        if is_series(entry):
            yield entry
        if depth > 1:
            yield from _below(entry, root, problems, depth - 1)


def scan_of(folder: Path) -> Scan:
    """A series folder by its first header. Raises InputError of severity ``aside`` when it cannot be read."""
    try:
        header = first_header(folder)
    except OSError as error:
        raise unreadable(folder, error) from error
    return Scan(folder, _modality(folder, header), safe_name(folder.name, header, "series"), header)


def safe_name(name: str, header: Header | None, kind: str) -> str:
    """``name`` itself, or ``kind`` and a hash of the UID of the series or study."""
    private = words(name) & header.person if header is not None else frozenset()
    if SAFE.fullmatch(name) and not UID.search(name) and not private:
        return name
    uid = "" if header is None else header.series if kind == "series" else header.study
    return f"{kind}-{hashlib.sha256((uid or name).encode()).hexdigest()[:12]}"


def modality_key(name: str) -> str:
    """What is compared of a modality's name: "FLAIR_reg" and "FLAIRreg" are one."""
    return "".join(sign for sign in name.casefold() if sign.isalnum())


def find_studies(
    root: Path, folders: Iterable[Path], problems: list[Problem], wanted: Sequence[str] = ()
) -> list[Study]:
    """The studies that series ``folders`` at or below ``root`` are of, in order of their folders.

    wanted: names of the modalities that count, and no others; if empty, all of one grid count. problems: takes note of
    series that are left out, and of what makes a study ambiguous.
    """
    keys = {modality_key(name): name for name in wanted}
    return [_study(group, keys, problems) for group in group_series(root, folders)]


def group_series(root: Path, folders: Iterable[Path]) -> Iterator[Group]:
    """Series ``folders`` at or below ``root`` by the study that they are of, in order of their folders."""
    by_folder: dict[Path, list[Scan]] = {}
    for scan in map(scan_of, folders):
        by_folder.setdefault(scan.folder.parent, []).append(scan)
    for parent, scans in by_folder.items():
        groups = _together(scans) if parent == root else [scans]
        flat = len(groups) > 1 and all(len(group) == 1 for group in groups)
        for group in groups:
            folder = parent if len(groups) == 1 and group[0].folder != root else group[0].folder
            called = one_form("_".join(folder.relative_to(root).parts) or root.resolve().name)
            header = next((scan.header for scan in group if scan.header), None)
            yield Group(safe_name(called, header, "study"), called, folder, tuple(group), flat)


def _together(scans: Sequence[Scan]) -> list[list[Scan]]:
    """Series of the top folder, by what their headers say of study and frame of reference."""
    groups: list[tuple[set[str], list[Scan]]] = []
    for scan in scans:
        said = {scan.header.study, scan.header.frame_of_reference} - {""} if scan.header else set()
        alike = [group for group in groups if group[0] & said]
        joined = said.union(*(group[0] for group in alike)), [s for group in alike for s in group[1]] + [scan]
        groups = [group for group in groups if group not in alike] + [joined]
    return [group for _, group in groups]


def _study(group: Group, wanted: dict[str, str], problems: list[Problem]) -> Study:
    scans, images, id = group.scans, group.images, group.id
    patients = [scan.header.patient for scan in scans if scan.header]
    if len(set(patients)) > 1:
        fix = "Put each patient's series into a folder of its own."
        found = f"{len(set(patients))} patients in one study"
        problems.append(Problem(str(group.folder), "PatientID", found, "one patient", fix, case=id))
    names = {scan: scan.name for scan in scans}
    if group.flat:
        names |= {s: s.header.modality for s in scans if s.header and modality_key(s.name) not in wanted}
    taken = []
    for scan in scans:
        left_out = None
        if scan not in images:
            left_out = "a localiser", "images to learn from"
        elif wanted and modality_key(names[scan]) not in wanted:
            left_out = f"a series called {names[scan]}", "one of " + ", ".join(wanted.values())
        if left_out is None:
            taken.append(scan)
        else:
            fix = f"It is a separate image, and no modality of {id}."
            problems.append(Problem(str(scan.folder), "series", *left_out, fix, "warn", id))
    channels: dict[str, Path] = {}
    for scan in _one_grid(taken, id, problems):
        key = modality_key(names[scan])
        name = wanted.get(key, names[scan])
        known = next((other for other in channels if modality_key(other) == key), None)
        if known is not None:
            found = f"{name}, as {channels[known].name} is called too"
            fix = "Rename one of the two folders to what tells them apart, or move it out of the study."
            problems.append(Problem(str(scan.folder), "modality", found, "one series of each name", fix, case=id))
        else:
            channels[name] = scan.folder
    return Study(id, group.called, channels, patients[0] if patients else "", tuple(names.values()))


def _one_grid(scans: Sequence[Scan], case: str, problems: list[Problem]) -> list[Scan]:
    """The largest group of series that share frame of reference and grid, with those that cannot be placed, whose
    faults are said when they are read. The others are noted as images of their own."""
    if len(scans) < 2:
        return list(scans)
    groups: list[list[tuple[Scan, Series]]] = []
    broken = []
    for scan in scans:
        try:
            series, _ = read_series(scan.folder)
        except OSError:
            series = None
        if series is None:
            broken.append(scan)
            continue
        group = next((group for group in groups if not _apart(series, group[0][1])), None)
        if group is None:
            groups.append([(scan, series)])
        else:
            group.append((scan, series))
    groups.sort(key=lambda group: (len(group), np.prod(group[0][1].shape)), reverse=True)
    for group in groups[1:]:
        for scan, series in group:
            first, whole = groups[0][0]
            expected = f"the grid of {first.folder.name}: {_grid(whole)}"
            fix = f"It is a separate image, and no modality of {case}. To make it one, resample it to that grid."
            found = f"{_grid(series)}, {_apart(series, whole)}"
            problems.append(Problem(str(scan.folder), "grid", found, expected, fix, "warn", case))
    kept = {scan for scan, _ in groups[0]} if groups else set()
    return [scan for scan in scans if scan in kept or scan in broken]


def _apart(series: Series, other: Series) -> str:
    """How two series differ in place; "" when they share one grid."""
    if series.first.frame_of_reference != other.first.frame_of_reference:
        return "in another frame of reference"
    if series.shape != other.shape:
        return "of another size"
    distance = corner_distance(series.affine, other.affine, series.shape)
    return f"{distance:.2f} mm away" if distance > tolerance(other.affine, 3) else ""


def _grid(series: Series) -> str:
    sides = np.linalg.norm(series.affine[:3, :3], axis=0)
    return " x ".join(map(str, series.shape)) + " voxels of " + " x ".join(f"{side:.3g}" for side in sides) + " mm"


def _modality(folder: Path, header: Header | None) -> str:
    """ "12-T1post-05670" -> "T1post"; where the folder is only numbered, what the header describes; else CT, MR, ..."""
    person = header.person if header is not None else frozenset()
    for text in (folder.name, header.description if header is not None else ""):
        tokens = [token for token in re.split(r"[^A-Za-z0-9]+", text) if token]
        while tokens and tokens[0].isdigit():
            del tokens[0]
        while tokens and tokens[-1].isdigit():
            del tokens[-1]
        if tokens and not UID.search(text) and not words(text) & person:
            return "_".join(tokens)[:64]
    return (header.modality if header is not None else "") or "image"
