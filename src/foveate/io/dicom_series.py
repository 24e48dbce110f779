"""A folder of DICOM images as one grid of voxels, or why it is none; nothing but headers is read.

Slices are ordered by their position along the normal of the image plane (PS3.3 C.7.6.2), and the third axis of the
affine is the step between these positions: file names, InstanceNumber and SliceThickness do not say where a slice lies.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foveate.errors import Problem
from foveate.io.dicom_fields import AGAIN
from foveate.io.dicom_header import COSINES, Frame, Header, is_dicom, read_header

MOST = 3  # files, and different values, that a message names
PARALLEL = 1e-4  # how much direction cosines may differ within a series, about 0.05 mm at the rim of an image
UNEVEN = 0.1  # of the step, by which slices may lie off their place
SIZES = 1e-3  # share by which voxel sizes may differ within a series
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Series:
    """frames: in order along the third array axis, each with its file's header. affine: voxel index -> RAS mm."""

    folder: Path
    frames: tuple[Frame, ...]
    headers: dict[Path, Header]
    affine: np.ndarray

    @property
    def first(self) -> Header:
        return self.headers[self.frames[0].path]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x (columns), y (rows) and z (slices)."""
        rows, columns = self.first.shape
        return columns, rows, len(self.frames)


def series_files(folder: Path) -> list[Path]:
    """The files in a folder that may be slices, by name. Raises OSError."""
    entries = sorted(folder.iterdir())
    return [e for e in entries if not e.name.startswith(".") and e.name.upper() != "DICOMDIR" and e.is_file()]


def is_series(folder: Path) -> bool:
    """Whether a folder holds a DICOM file itself, not only in folders below; False where it cannot be read."""
    try:
        return folder.is_dir() and any(map(is_dicom, series_files(folder)))
    except OSError:
        return False


def first_header(folder: Path) -> Header | None:
    """The header of the first image in a folder that can be used, None without one. Raises OSError."""
    return next((header for file in series_files(folder) if (header := read_header(file)[0])), None)


def read_series(folder: Path) -> tuple[Series | None, list[Problem]]:
    """The series in a folder, None where it is no single sound one, and everything that is wrong. Raises OSError."""
    headers: list[Header] = []
    problems: list[Problem] = []
    others = []
    for file in series_files(folder):
        if file.suffix.lower() not in (".dcm", ".ima", ".dicom") and not is_dicom(file):
            others.append(file)
            continue
        header, found = read_header(file)
        problems += found
        if header is not None:
            headers.append(header)
    problems = _joined(folder, problems)
    if others:
        found_others = f"{len(others)} files that are no DICOM files ({_names(others)})"
        problems.append(
            Problem(str(folder), "files", found_others, "images of one series", "They are skipped.", "warn")
        )
    if not headers:
        if all(problem.severity == "warn" for problem in problems):
            fix = "Remove the folder, or put the images of one series into it."
            problems.append(Problem(str(folder), "files", "no image", "the images of one series", fix))
        return None, problems
    problems += _mixed(folder, headers)
    if any(problem.severity != "warn" for problem in problems):
        return None, problems
    frames, affine, found = place([frame for header in headers for frame in header.frames], folder)
    problems += found
    if affine is None:
        return None, problems
    return Series(folder, tuple(frames), {header.path: header for header in headers}, affine), problems


def place(frames: Sequence[Frame], folder: Path) -> tuple[list[Frame], np.ndarray | None, list[Problem]]:
    """The frames in order, their affine, and what is wrong; frames that are parallel and alike in size."""
    orientation, (between_rows, between_columns) = np.array(frames[0].orientation), frames[0].spacing
    right, down = orientation[:3], orientation[3:]
    normal = np.cross(right, down)
    normal /= np.linalg.norm(normal)
    frames = sorted(frames, key=lambda frame: float(normal @ frame.position))
    positions = np.array([frame.position for frame in frames])  # [N, 3]
    problems: list[Problem] = []
    if len(frames) == 1:
        if not frames[0].thickness > 0:
            fix = "Add the other slices; a single one needs SpacingBetweenSlices or SliceThickness."
            return list(frames), None, [Problem(str(folder), "slices", "one, of unknown thickness", "several", fix)]
        step = normal * frames[0].thickness
        fix = "Its thickness is what the header says. Check that no slices are missing."
        problems.append(Problem(str(folder), "slices", "one", "several", fix, "warn"))
    else:
        problems += _gaps(folder, frames, positions @ normal, 1e-3 * min(between_rows, between_columns))
        step = (positions[-1] - positions[0]) / (len(frames) - 1)
        side = min(between_rows, between_columns, float(np.linalg.norm(step)))
        if not problems:
            step, problems = _line(folder, positions, step, normal, side)
    if any(problem.severity != "warn" for problem in problems):
        return list(frames), None, problems
    affine = np.eye(4)
    # PixelSpacing gives the distance between rows first, which is the step down; x counts columns.
    affine[:3] = np.column_stack([right * between_columns, down * between_rows, step, positions[0]])
    return list(frames), LPS_TO_RAS @ affine, problems


def _gaps(folder: Path, frames: Sequence[Frame], along: np.ndarray, same: float) -> list[Problem]:
    """Positions that occur twice, and steps between them that differ. along: mm, sorted. same: mm that are none."""
    steps = np.diff(along)
    problems = []
    if (twice := steps <= same).any():
        pair = int(np.flatnonzero(twice)[0])
        found = f"{int(twice.sum())} of {len(frames)} slices at the place of another ({_pair(frames, pair)})"
        fix = "Remove copies; put echoes, phases, time points or reconstructions into a folder each."
        problems.append(Problem(str(folder), "ImagePositionPatient", found, "every slice at its own place", fix))
        steps = np.diff(along[np.concatenate([[True], ~twice])])
        frames = [frame for frame, again in zip(frames, [False, *twice], strict=True) if not again]
    if not len(steps):
        return problems
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])  # where half are gaps, those are not usual
    ratio = steps / usual
    odd = np.flatnonzero(np.abs(ratio - 1) > UNEVEN)
    gaps = [i for i in odd if round(ratio[i]) >= 2 and abs(ratio[i] - round(ratio[i])) <= 2 * UNEVEN]
    if len(gaps):
        count = sum(round(float(ratio[i])) - 1 for i in gaps)
        found = f"{count} slice{'s' * (count > 1)} missing: {steps[gaps[0]]:.4g} mm between "
        found += _pair(frames, int(gaps[0]))
        fix = "Add what is missing: export or copy the series again."
        problems.append(Problem(str(folder), "slices", found, f"a slice every {usual:.4g} mm", fix))
    if len(odd) > len(gaps):
        worst = max((i for i in odd if i not in gaps), key=lambda i: abs(ratio[i] - 1))
        found = f"steps from {steps.min():.4g} to {steps.max():.4g} mm, {steps[worst]:.4g} mm between "
        found += _pair(frames, int(worst))
        fix = "Resample the scan to even steps, or split the folder where the step changes."
        problems.append(Problem(str(folder), "slice positions", found, f"even steps, here {usual:.4g} mm", fix))
    return problems


def _line(
    folder: Path, positions: np.ndarray, step: np.ndarray, normal: np.ndarray, side: float
) -> tuple[np.ndarray, list[Problem]]:
    """The step without what rounding tilts it, and the refusal of slices that lie on no line along the normal."""
    off = positions - positions[0] - np.arange(len(positions))[:, None] * step
    distance = float(np.linalg.norm(off, axis=1).max())
    if distance > UNEVEN * side:
        fix = "Resample the scan to even steps. " + AGAIN
        found = f"a slice {distance:.3g} mm off the line through the first and the last"
        return step, [Problem(str(folder), "slice positions", found, f"within {UNEVEN * side:.3g} mm", fix)]
    upright = normal * (normal @ step)
    tilt = float(np.linalg.norm(step - upright) / np.linalg.norm(step))
    if tilt <= COSINES:
        return step, []
    if float(np.linalg.norm(step - upright)) * (len(positions) - 1) <= UNEVEN * side:
        return upright, []
    found = f"slices stacked at {np.degrees(np.arcsin(min(1.0, tilt))):.2f} degrees to their normal (sheared)"
    fix = "Resample the scan to a grid without shear (gantry tilt?)."
    return step, [Problem(str(folder), "slice positions", found, "slices stacked along their normal", fix)]


def _mixed(folder: Path, headers: Sequence[Header]) -> list[Problem]:
    """Refusals of what must be the same in all files of a series, and is not."""

    def sizes(header: Header, other: Header) -> bool:
        return all(np.allclose(f.spacing, other.frames[0].spacing, rtol=SIZES, atol=0) for f in header.frames)

    def parallel(header: Header, other: Header) -> bool:
        first = other.frames[0].orientation
        return all(np.allclose(f.orientation, first, rtol=0, atol=PARALLEL) for f in header.frames)

    def equal(name: str) -> Callable[[Header, Header], bool]:
        return lambda header, other: bool(getattr(header, name) == getattr(other, name))

    split = "Put each series into a folder of its own."
    checks: list[tuple[str, Callable[[Header, Header], bool], Callable[[Header], str], str, str]] = [
        ("SeriesInstanceUID", equal("series"), lambda h: _uid(h.series), "one series", split),
        ("PatientID", equal("patient"), lambda h: "a patient", "one patient", split + " Check whose scans they are."),
        ("Rows, Columns", equal("shape"), lambda h: "{} x {}".format(*h.shape), "one matrix size", split),
        ("ImageOrientationPatient", parallel, _directions, "parallel slices", "Is it a localiser? " + split),
        ("PixelSpacing", sizes, lambda h: "{:g} x {:g} mm".format(*h.frames[0].spacing), "one pixel size", split),
        ("PhotometricInterpretation", equal("inverted"), lambda h: f"MONOCHROME{2 - h.inverted}", "one of them", AGAIN),
        (
            "BitsStored, PixelRepresentation",
            lambda header, other: (header.low, header.high) == (other.low, other.high),
            lambda h: f"values from {h.low} to {h.high}",
            "one range of values",
            AGAIN,
        ),
    ]
    problems = []
    for name, same, shown, expected, fix in checks:
        groups = _groups(headers, same)
        if len(groups) > 1 or not same(headers[0], headers[0]):
            found = "; ".join(
                f"{shown(group[0])} in {len(group)} files ({_names([header.path for header in group])})"
                for group in groups[:MOST]
            )
            more = f"; and {len(groups) - MOST} more" if len(groups) > MOST else ""
            problems.append(Problem(str(folder), name, f"{len(groups)}: {found}{more}", expected, fix))
    return problems


def _groups(headers: Sequence[Header], same: Callable[[Header, Header], bool]) -> list[list[Header]]:
    groups: list[list[Header]] = []
    for header in headers:
        group = next((group for group in groups if same(header, group[0])), None)
        if group is None:
            groups.append([header])
        else:
            group.append(header)
    return sorted(groups, key=len, reverse=True)


def _joined(folder: Path, problems: Sequence[Problem]) -> list[Problem]:
    """One problem in place of many that differ by their file alone."""
    alike: dict[Any, list[Problem]] = defaultdict(list)
    for problem in problems:
        alike[replace(problem, file="")].append(problem)
    return [
        group[0]
        if len(group) == 1
        else replace(
            key, file=str(folder), found=f"{key.found} in {len(group)} files ({_names(p.file for p in group)})"
        )
        for key, group in alike.items()
    ]


def _uid(uid: str) -> str:
    return uid if re.fullmatch(r"[0-9.]{1,64}", uid) else "an invalid UID" if uid else "none"


def _directions(header: Header) -> str:
    return "[" + " ".join(f"{value:.3g}" for value in header.frames[0].orientation) + "]"


def _pair(frames: Sequence[Frame], index: int) -> str:
    return " and ".join(_frame_name(frame) for frame in frames[index : index + 2])


def _frame_name(frame: Frame) -> str:
    return frame.path.name if frame.index is None else f"frame {frame.index + 1}"


def _names(files: Any) -> str:
    names = [Path(file).name for file in files]
    return ", ".join(names[:MOST]) + (", ..." if len(names) > MOST else "")
