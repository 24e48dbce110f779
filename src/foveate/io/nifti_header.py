"""The NIfTI header, read strictly: what nibabel and SimpleITK repair or ignore without a word is refused here.

Format: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from foveate.errors import Problem, Severity, refuse
from foveate.io.grid import corner_distance
from foveate.io.stream import RESTORE, what_is

HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348 and at least 4 more before the data
REPAIR = "Export the image again, or correct the header."
NAMES = {1: "binary", 32: "complex", 128: "RGB", 1536: "128-bit float", 1792: "complex", 2048: "complex", 2304: "RGBA"}
TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip


@dataclass
class NiftiHeader:
    """What is needed to read the voxels. ``problems`` holds warnings and refusals; ``usable`` says which.

    shape: spatial size then, for several channels, their number. affine: voxel index -> RAS mm.
    """

    path: Path
    raw: Any
    problems: list[Problem] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype("u1"))
    offset: int = 352
    slope: float = 1.0
    intercept: float = 0.0
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))

    @property
    def usable(self) -> bool:
        return all(problem.severity == "warn" for problem in self.problems)

    @property
    def end(self) -> int:
        """Length in bytes that the (uncompressed) file must have."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def note(self, field: str, found: object, expected: str, fix: str, severity: Severity = "refuse") -> None:
        self.problems.append(Problem(str(self.path), field, str(found), expected, fix, severity))


def parse_header(path: Path, head: bytes, channels: int | None) -> NiftiHeader:
    """Read and judge the first 540 bytes of a file.

    channels: number of channels that a 4-D file must have; None or 1 expects a 3-D file.
    Raises InputError when the bytes are no NIfTI header at all; everything else is listed in ``problems``.
    """
    little, big = int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")
    if len(head) < 348 or (little not in (348, 540) and big not in (348, 540)):
        found = what_is(head)
        if 0 < len(head) < 348 and (little in (348, 540) or big in (348, 540)):
            found = f"a NIfTI header that ends after {len(head)} bytes (truncated)"
        raise refuse(path, "content", found, "a NIfTI image", RESTORE)
    second = 540 in (little, big)
    if second and len(head) < 540:
        raise refuse(path, "content", "a NIfTI-2 header that is truncated", "540 bytes of header", RESTORE)
    kind = nib.Nifti2Header if second else nib.Nifti1Header
    order = "<" if little in (348, 540) else ">"
    raw = kind(head[: 540 if second else 348], endianness=order, check=False)
    header = NiftiHeader(path, raw)
    magic = bytes(raw["magic"].item())[:3]
    if magic not in (b"n+1", b"n+2"):
        found = "a header without voxels (.hdr/.img pair)" if magic in (b"ni1", b"ni2") else f"magic {magic!r}"
        header.note("magic", found, "a single-file NIfTI ('n+1' or 'n+2')", "Convert the pair to one .nii.gz file.")
    _sizes(header, channels)
    _voxel_type(header)
    _space(header)
    return header


def _sizes(header: NiftiHeader, channels: int | None) -> None:
    dim = [int(value) for value in header.raw["dim"]]
    if not 1 <= dim[0] <= 7:
        header.note("dim[0]", dim[0], "3 dimensions", "The header is damaged. " + REPAIR)
        return
    shape = dim[1 : dim[0] + 1]
    size = " x ".join(map(str, shape))
    if min(shape) < 1:
        header.note("dim", size, "at least one voxel along every axis", "The header is damaged. " + REPAIR)
        return
    wanted = 4 if channels and channels > 1 else 3
    while len(shape) > wanted and shape[-1] == 1:
        shape.pop()
        expected = f"{wanted} dimensions"
        if len(shape) == wanted:
            header.note("dim", size, expected, "The trailing axes of one element are dropped.", "warn")
    if len(shape) != wanted:
        header.note("dim", f"{len(shape)}-D ({size})", *_wanted_dimensions(len(shape), channels))
    elif wanted == 4 and shape[3] != channels:
        header.note(
            "dim[4]", f"{shape[3]} channels", f"{channels} channels, as the dataset declares", "Correct dataset.json."
        )
    header.shape = tuple(shape)


def _wanted_dimensions(found: int, channels: int | None) -> tuple[str, str]:
    if channels and channels > 1:
        return f"4-D: {channels} channels on the last axis", "Store the channels on the fourth axis, or one per file."
    if found > 3:
        fix = (
            "Split it into 3-D files, one per time point or channel; "
            "a dataset.json that names several channels lets 4-D files hold them."
        )
        return "3-D", fix
    return "3-D", "Save a single slice as a picture (PNG, TIFF), or as 3-D with one voxel along the third axis."


def _voxel_type(header: NiftiHeader) -> None:
    raw = header.raw
    code = int(raw["datatype"])
    if code in TYPES:
        header.dtype = np.dtype(TYPES[code]).newbyteorder(raw.endianness)
    else:
        found = f"{code} ({NAMES.get(code, 'unknown')})"
        header.note(
            "datatype",
            found,
            "one integer or real number per voxel",
            "Convert it to a grey image, or " + REPAIR.lower(),
        )
    offset = float(raw["vox_offset"])
    least = 544 if header.raw.sizeof_hdr == 540 else 352
    if offset == 0:
        offset = least
    if not math.isfinite(offset) or offset < least or offset != int(offset):
        header.note("vox_offset", offset, f"a whole number of at least {least}", "The header is damaged. " + REPAIR)
    else:
        header.offset = int(offset)
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    for name, value in (("scl_slope", slope), ("scl_inter", intercept)):
        if not math.isfinite(value):
            header.note(name, value, "a finite number (or 0 for no scaling)", "Set it to its true value. " + REPAIR)
    if slope != 0:  # 0 means that the values are not scaled
        header.slope, header.intercept = slope, intercept


def _space(header: NiftiHeader) -> None:
    """Voxel sizes and both forms of orientation. The sform is used where it is set, as in nibabel."""
    raw = header.raw
    sizes = np.asarray(raw["pixdim"][1:4], dtype=float)
    text = ", ".join(f"{size:g}" for size in sizes)
    if not np.isfinite(sizes).all():
        header.note("pixdim", text, "finite voxel sizes in mm", REPAIR)
    elif (sizes <= 0).any():
        header.note("pixdim", text, "voxel sizes above 0 mm", REPAIR)
    unit = int(raw["xyzt_units"]) & 7
    if unit in (1, 3):
        found = "metre" if unit == 1 else "micrometre"
        header.note("xyzt_units", found, "millimetre", "Scale the affine to mm and set the unit to mm.")
    sform = _sform(header) if int(raw["sform_code"]) > 0 else None
    qform = _qform(header) if int(raw["qform_code"]) > 0 else None
    if int(raw["sform_code"]) <= 0 and int(raw["qform_code"]) <= 0:
        header.note(
            "sform_code, qform_code",
            "0 and 0: the file does not say where left and right are",
            "at least one above 0",
            "Set the true orientation, in Python: image.set_sform(affine, code=1) with nibabel, then save.",
        )
    if sform is not None and qform is not None and len(header.shape) >= 3:
        _compare(header, sform, qform)
    chosen = sform if sform is not None else qform
    if chosen is not None:
        header.affine = chosen


def _sform(header: NiftiHeader) -> np.ndarray | None:
    affine = np.asarray(header.raw.get_sform(), dtype=float)
    return affine if _sound(header, "sform", affine) else None


def _qform(header: NiftiHeader) -> np.ndarray | None:
    values = [float(header.raw[f"quatern_{axis}"]) for axis in "bcd"]
    values += [float(header.raw[f"qoffset_{axis}"]) for axis in "xyz"]
    if not np.isfinite(values).all():
        header.note("qform", "NaN or infinite", "finite numbers", REPAIR)
        return None
    sizes = np.asarray(header.raw["pixdim"][1:4], dtype=float)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        return None  # said already under pixdim
    square = sum(value * value for value in values[:3])
    if square > 1 + 1e-4:
        header.note("qform", f"quaternion b, c, d of squared length {square:.4g}", "at most 1", REPAIR)
        return None
    scale = 1 / math.sqrt(square) if square > 1 else 1.0
    b, c, d = (value * scale for value in values[:3])
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    left_handed = float(header.raw["pixdim"][0]) < 0
    affine = np.eye(4)
    affine[:3, :3] = nib.quaternions.quat2mat([a, b, c, d]) * sizes
    affine[:3, 2] *= -1 if left_handed else 1
    affine[:3, 3] = values[3:]
    return affine if _sound(header, "qform", affine) else None


def _sound(header: NiftiHeader, name: str, affine: np.ndarray) -> bool:
    """False, with the reason noted, unless the affine is finite, invertible and free of shear."""
    if not np.isfinite(affine).all():
        header.note(name, "NaN or infinite values in the affine", "finite numbers", REPAIR)
        return False
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / np.where(sides > 0, sides, 1)
    if (sides == 0).any() or abs(np.linalg.det(directions)) < 1e-3:
        rows = "; ".join(" ".join(f"{value:g}" for value in row) for row in affine[:3, :3])
        header.note(name, f"a singular affine ({rows})", "three independent axes", REPAIR)
        return False
    skew = np.abs(directions.T @ directions - np.eye(3)).max()
    if skew > 1e-3:
        angle = math.degrees(math.asin(min(1.0, float(skew))))
        found = f"axes {angle:.2f} degrees away from perpendicular (sheared)"
        header.note(name, found, "perpendicular axes", "Resample the image to a grid without shear (gantry tilt?).")
        return False
    return True


def _compare(header: NiftiHeader, sform: np.ndarray, qform: np.ndarray) -> None:
    distance = corner_distance(sform, qform, header.shape[:3])
    if distance <= 0.05 * float(np.linalg.norm(sform[:3, :3], axis=0).min()):
        return
    found = f"sform and qform place a corner {distance:.2f} mm apart"
    if _left_right(sform) != _left_right(qform) or np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        found += " and disagree on which side is left"
        fix = "Find out which one is true and copy it to the other: image.set_qform(image.get_sform()) in nibabel."
        header.note("sform, qform", found, "one orientation", fix)
    else:
        header.note("sform, qform", found, "the same position in both", "The sform is used.", "warn")


def _left_right(affine: np.ndarray) -> tuple[int, bool]:
    """Voxel axis that runs left-right, and whether it runs to the right."""
    axis, sign = next((axis, sign) for axis, (world, sign) in enumerate(nib.io_orientation(affine)) if world == 0)
    return axis, bool(sign > 0)
