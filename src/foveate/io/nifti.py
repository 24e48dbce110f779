"""NIfTI files (.nii, .nii.gz; versions 1 and 2) read strictly and to the end, and label maps written safely."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip

from foveate.errors import InputError, Problem, refuse
from foveate.io.nifti_header import HEADER_BYTES, NiftiHeader, parse_header
from foveate.io.stream import RESTORE, fits_memory, open_stream, what_is
from foveate.io.volume import Volume

Inspected = tuple[Volume | None, list[Problem]]


def inspect_nifti(path: Path, channels: int | None = None) -> Inspected:
    """An image as float32 ``[C, X, Y, Z]`` in file order with its affine, and every problem of the file.

    channels: number of channels that the dataset keeps in one 4-D file (last axis); otherwise the file is 3-D.
    The volume is None when a problem is not a mere warning.
    """
    try:
        header, data, problems = _read(path, channels)
    except InputError as error:
        return None, error.problems
    if data is None:
        return None, problems
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused below
        array = data.astype(np.float32)  # [X, Y, Z] or [X, Y, Z, C]
        if (header.slope, header.intercept) != (1.0, 0.0):
            array *= np.float32(header.slope)
            array += np.float32(header.intercept)
    bad = not_finite(path, array)
    if bad:
        return None, [*problems, bad]
    array = array[None] if array.ndim == 3 else np.moveaxis(array, -1, 0)
    return _volume(header, array), problems


def inspect_nifti_label(path: Path) -> Inspected:
    """A label map as integers ``[1, X, Y, Z]`` in file order, and every problem of the file."""
    try:
        header, data, problems = _read(path, None)
    except InputError as error:
        return None, error.problems
    if data is None:
        return None, problems
    if (header.slope, header.intercept) != (1.0, 0.0):
        scaled = data * header.slope
        data = scaled + header.intercept
        # Slope and intercept are stored with 24 bits: whole numbers come back with their rounding.
        near, nearest = (np.abs(scaled) + abs(header.intercept)) * 2.0**-22, np.rint(data)
        data = np.where(np.abs(data - nearest) <= near, nearest, data)
    array, found = whole_numbers(path, data)
    problems += found
    return (None if array is None else _volume(header, array[None])), problems


def whole_numbers(path: Path, data: np.ndarray) -> tuple[np.ndarray | None, list[Problem]]:
    """Label values as uint8 where they fit, else int32. Whole numbers stored as floats are cast with a warning."""
    problems: list[Problem] = []
    if data.dtype.kind == "f":
        bad = not_finite(path, data)
        if bad:
            return None, [bad]
        fraction = data != np.rint(data)
        if fraction.any():
            example = data[fraction].flat[0]
            found = f"{int(fraction.sum()):,} voxels that are no whole number, for instance {example:g}"
            fix = "A label was interpolated: resample labels with nearest neighbour, or export them again."
            return None, [Problem(str(path), "label values", found, "whole numbers", fix)]
        found = f"whole numbers stored as {data.dtype.name}"
        problems.append(Problem(str(path), "data type", found, "an integer type", "They are cast.", "warn"))
    low, high = (data.min(), data.max()) if data.size else (0, 0)
    if low < -(2**31) or high >= 2**31:
        fix = "Renumber the classes from 1."
        return None, [Problem(str(path), "label values", f"{low:g} to {high:g}", "small whole numbers", fix)]
    return data.astype(np.uint8 if low >= 0 and high <= 255 else np.int32), problems


def nifti_bytes(array: np.ndarray, like: Volume, *, gzipped: bool) -> bytes:
    """A NIfTI-1 file of ``array [*S]`` in its own type, whose sform and qform both hold ``like``'s affine."""
    image = nib.Nifti1Image(array, like.affine)
    codes = [int(like.meta.get(name) or 0) for name in ("sform_code", "qform_code")]
    code = next((code for code in codes if 1 <= code <= 5), 1)  # the format has no others, files have
    image.set_sform(like.affine, code)
    image.set_qform(like.affine, code)
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    return bytes(igzip.compress(content, 1, mtime=0)) if gzipped else content


def _read(path: Path, channels: int | None) -> tuple[NiftiHeader, np.ndarray | None, list[Problem]]:
    """Header, voxels in stored type ``[X, Y, Z(, C)]`` (None when the header is refused), problems."""
    gzipped = _container(path)
    with open_stream(path, gzipped=gzipped) as stream:
        head = stream.read(HEADER_BYTES)
        header = parse_header(path, head, channels)
        if not header.usable:
            return header, None, header.problems
        size = header.end - header.offset
        fits_memory(path, header.end + 4 * math.prod(header.shape), header.shape)
        stream.read(max(0, header.offset - len(head)))  # header extensions
        early = head[header.offset :]  # voxels that were read together with the header
        buffer = np.empty(size, np.uint8)  # not touched before it is filled: a file cut short takes no memory
        buffer.data[: min(len(early), size)] = early[:size]
        got = len(early)
        if got < size:
            got += stream.fill(buffer.data[got:])
        if got < size:
            found = f"{got:,} bytes of voxels (truncated)"
            raise refuse(path, "length", found, f"{size:,} bytes, as the header declares", RESTORE)
        trailing = stream.drain() + max(0, len(early) - size)
    if trailing:
        found = f"{trailing:,} bytes after the last voxel"
        fix = "They are ignored; if the image looks wrong, export it again."
        header.note("length", found, "the end of the file", fix, "warn")
    data = np.ndarray(header.shape, header.dtype, buffer, order="F")
    return header, data, header.problems


def _container(path: Path) -> bool:
    """Whether the file is to be unpacked. Raises InputError when its name says something else than its bytes."""
    with open_stream(path, gzipped=False) as stream:
        head = stream.read(HEADER_BYTES)
    named = path.name.lower().endswith(".gz")
    zipped = head.startswith(b"\x1f\x8b")
    if named and not zipped:
        found = what_is(head)
        fix = "Rename it to end in .nii." if "NIfTI" in found else RESTORE
        raise refuse(path, "content", found, "a gzip file, as the name says", fix)
    if zipped and not named:
        raise refuse(path, "content", "a gzip file", "an uncompressed NIfTI", "Rename it to end in .nii.gz.")
    return zipped


def not_finite(path: Path, array: np.ndarray) -> Problem | None:
    """The refusal that counts NaN and infinite values, if there are any."""
    # A sum is finite exactly when all voxels are (or it overflowed, which the count then clears).
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(np.sum(array, dtype=np.float64)):
            return None
    bad = array.size - int(np.isfinite(array).sum())
    if not bad:
        return None
    kind = "NaN" if np.isnan(array).any() else "infinite"
    found = f"{bad:,} of {array.size:,} are NaN or infinite ({kind})"
    fix = "Replace them by a true value (often 0) and save the image again."
    return Problem(str(path), "voxels", found, "finite numbers", fix)


def _volume(header: NiftiHeader, array: np.ndarray) -> Volume:
    raw = header.raw
    meta = {
        "format": "nifti",
        "stored": header.dtype.name,
        "zooms": tuple(float(size) for size in raw["pixdim"][1:4]),
        "xyzt_units": int(raw["xyzt_units"]),
        "sform_code": int(raw["sform_code"]),
        "qform_code": int(raw["qform_code"]),
    }
    return Volume(array, header.affine, header.path, meta)
