"""A folder with one DICOM series -> Volume: single-frame CT and MR images, or enhanced multi-frame ones.

Everything is judged by the headers first, and refused before memory for pixels is taken. Values are
``slope * stored + intercept``, with the slope and intercept of each slice; those of MONOCHROME1 are inverted within the
range of their bits first, so that high is bright as everywhere else.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from foveate.errors import InputError, Problem
from foveate.io.dicom_pixels import decode
from foveate.io.dicom_series import Series, is_series, read_series, series_files
from foveate.io.stream import fits_memory, unreadable
from foveate.io.volume import Volume

__all__ = ["image_files", "inspect_series", "is_series", "read_pixels"]


def image_files(path: Path) -> list[Path]:
    """The files that an image is made of: itself or, of a DICOM series, those in its folder. Raises OSError."""
    return series_files(path) if path.is_dir() else [path]


def inspect_series(folder: Path) -> tuple[Volume | None, list[Problem]]:
    """The image as float32 ``[1, columns, rows, slices]`` with its affine, and every problem of its files.

    The volume is None when a problem is not a mere warning.
    """
    try:
        series, problems = read_series(folder)
        if series is None:
            return None, problems
        voxels = math.prod(series.shape)
        fits_memory(folder, 4 * voxels + 16 * voxels // len(series.frames), series.shape)
        array, found = read_pixels(series)
    except OSError as error:
        return None, unreadable(Path(error.filename or folder), error).problems
    except InputError as error:
        return None, error.problems
    problems += found
    if array is None:
        return None, problems
    inverted = any(header.inverted for header in series.headers.values())
    if inverted:
        fix = "They are inverted, so that high values are bright; this is recorded."
        problems.append(Problem(str(folder), "PhotometricInterpretation", "MONOCHROME1", "MONOCHROME2", fix, "warn"))
    meta = {"format": "dicom", "stored": series.first.stored, "inverted": inverted}
    return Volume(array[None], series.affine, folder, meta), problems


def read_pixels(series: Series) -> tuple[np.ndarray | None, list[Problem]]:
    """Values float32 ``[columns, rows, slices]``, or None and what is wrong, of all slices in one pass."""
    array = np.empty(series.shape, np.float32, order="F")  # a slice is contiguous
    problems: list[Problem] = []
    for number, frame in enumerate(series.frames):
        header = series.headers[frame.path]
        try:
            stored = decode(frame.path, frame.index, header.shape, header.low, header.high)
        except InputError as error:
            problems += error.problems
            continue
        if header.inverted:
            stored = (header.low + header.high) - stored.astype(np.int64)
        if (frame.slope, frame.intercept) != (1.0, 0.0):
            stored = stored * np.float64(frame.slope) + frame.intercept
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused
            array[..., number] = stored.T
        if not np.isfinite(array[..., number]).all():
            found = f"values beyond {np.finfo(np.float32).max:.3g} (slope {frame.slope:g})"
            fix = "Export the series again."
            problems.append(Problem(str(frame.path), "RescaleSlope", found, "values of an image", fix))
    return (None, problems) if problems else (array, [])
