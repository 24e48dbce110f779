"""One entrance for every image format: a folder is a DICOM series, a file what its suffix says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from foveate.errors import InputError, Problem, refuse
from foveate.files import make_folder, write_atomic
from foveate.io.dicom import inspect_series
from foveate.io.grid import corner_distance, tolerance
from foveate.io.nifti import Inspected, inspect_nifti, inspect_nifti_label, nifti_bytes
from foveate.io.picture import inspect_picture, inspect_picture_label, picture_label_bytes, picture_map_bytes
from foveate.io.volume import Volume
from foveate.text import one_form

NIFTI_SUFFIXES = (".nii.gz", ".nii")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
IMAGE_SUFFIXES = NIFTI_SUFFIXES + PICTURE_SUFFIXES


def image_suffix(path: Path | str) -> str:
    """The suffix in lower case (".nii.gz", ".png", ...), or "" when the name is not one of an image we read."""
    name = Path(path).name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), "")


def case_stem(path: Path | str) -> str:
    """The file name without its image suffix, in one form of Unicode: "scan_01.nii.gz" -> "scan_01"."""
    name = one_form(Path(path).name)
    return name[: len(name) - len(image_suffix(name))]


def inspect_image(
    paths: Sequence[Path], channels: int | None = None, missing: Sequence[int] = ()
) -> tuple[Volume | None, list[Problem]]:
    """As ``read_image``, but returns every problem in place of raising; the volume is None if it cannot be used."""
    volumes: list[Volume] = []
    problems: list[Problem] = []
    for path in paths:
        inside = channels if len(paths) == 1 and not missing else None
        volume, found = _by_suffix(Path(path), label=False, channels=inside)
        if volume is None and len(paths) == 1 and missing:  # unless it holds them all, whatever its name says
            whole, said = _by_suffix(Path(path), label=False, channels=channels)
            volume, found = (whole, said) if whole is not None else (volume, found)
        problems += found
        if volume is not None:
            volumes.append(volume)
    if len(volumes) < len(paths):
        return None, problems
    first = volumes[0]
    for other in volumes[1:]:
        if found_difference := grid_difference(other, first):
            problems.append(found_difference)
    count = sum(len(volume.array) for volume in volumes)
    if len(volumes) == 1 and count == channels:
        missing = ()
    if channels is not None and count + len(missing) != channels:
        found_channels = f"{count} in {len(paths)} file{'s' * (len(paths) > 1)}"
        fix = "Correct the channel names in dataset.json, or the image."
        problems.append(Problem(str(first.path), "channels", found_channels, f"{channels} channels", fix))
    if any(problem.severity != "warn" for problem in problems):
        return None, problems
    if len(volumes) == 1 and not missing:
        return first, problems
    array = np.concatenate([volume.array for volume in volumes])
    for number in sorted(missing):
        array = np.insert(array, number, np.nan, axis=0)
    return Volume(array, first.affine, first.path, first.meta), problems


def read_image(
    paths: Sequence[Path],
    channels: int | None = None,
    missing: Sequence[int] = (),
    said: list[Problem] | None = None,
) -> Volume:
    """An image as float32 ``[C, *S]`` in the file's own voxel order; several files are its channels. A folder is a
    DICOM series.

    channels: number of channels that the dataset declares, checked when given. A 4-D NIfTI (last axis =
    channels) is accepted only with it. missing: numbers of channels that have no file; they are filled with NaN.
    said: takes what is no more than a warning.
    Raises InputError with everything that is wrong with the files.
    """
    volume, problems = inspect_image(paths, channels, missing)
    if said is not None:
        said += [problem for problem in problems if problem.severity == "warn"]
    return _or_raise(volume, problems)


def inspect_label(path: Path) -> tuple[Volume | None, list[Problem]]:
    """As ``read_label``, but returns every problem, warnings included, in place of raising."""
    return _by_suffix(Path(path), label=True)


def read_label(path: Path) -> Volume:
    """A label map ``[1, *S]`` as uint8, or int32 where values do not fit. Raises InputError."""
    return _or_raise(*inspect_label(path))


def grid_difference(label: Volume, image: Volume) -> Problem | None:
    """The refusal when two volumes do not lie on the same voxel grid, with the distance in mm."""
    file, other = str(label.path), "/".join(image.path.parts[-2:]) if image.path else "the image"
    if codes := _reordered(label, image):
        found = f"the voxels of {other} in another order: axes {codes[0]}, not {codes[1]}"
        fix = (
            "Its affine is right: do not copy another to it, which would mirror it. Reorder its voxels, "
            "x as nibabel loads it: x.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(x.affine), "
            f"nib.orientations.axcodes2ornt('{codes[1]}')))."
        )
        return Problem(file, "axes", found, f"{codes[1]}, as {other}", fix)
    if label.shape != image.shape:
        found = " x ".join(map(str, label.shape))
        expected = f"{' x '.join(map(str, image.shape))}, as {other}"
        fix = "Resample it to the image's grid (labels with nearest neighbour), or find the file that belongs to it."
        if label.dims == 2 and label.shape == image.shape[::-1]:
            fix = "One of the two is turned by 90 degrees (EXIF orientation?). Save both the same way."
        return Problem(file, "shape", found, expected, fix)
    distance = corner_distance(label.affine, image.affine, image.shape)
    if distance <= tolerance(image.affine, image.dims):
        return None
    found = f"a corner lies {distance:.2f} mm from where {other} has it"
    fix = "If the voxels do belong together, copy the image's affine to this file; otherwise resample it."
    return Problem(file, "affine", found, f"the same position within {tolerance(image.affine, image.dims):.3g} mm", fix)


def _reordered(label: Volume, image: Volume) -> tuple[str, str] | None:
    """Where the axes of two volumes point, "LAS", if both have the same voxels in another order; else None."""
    if not label.dims == image.dims == 3:
        return None
    codes = ["".join(map(str, nib.aff2axcodes(volume.affine))) for volume in (label, image)]
    if codes[0] == codes[1]:
        return None
    way = nib.orientations.ornt_transform(*(nib.io_orientation(volume.affine) for volume in (label, image)))
    shape = tuple(label.shape[int(axis)] for axis in np.argsort(way[:, 0]))
    affine = label.affine @ nib.orientations.inv_ornt_aff(way, label.shape)
    if shape != image.shape or corner_distance(affine, image.affine, shape) > tolerance(image.affine, 3):
        return None
    return codes[0], codes[1]


def write_label(path: Path, labels: np.ndarray, like: Volume) -> None:
    """Write a label map ``[*S]`` on the grid of ``like``: uint8 NIfTI (.nii, .nii.gz) or grey PNG.

    The file appears whole or not at all: temporary file, fsync, rename, fsync of the folder. A picture with an
    EXIF orientation has its label written upright, as it was read.
    Raises InputError for a name, shape or value that cannot be written, Unwritable when the disk refuses.
    """
    path = Path(path)
    suffix = image_suffix(path)
    expected = (".png",) if like.dims == 2 else NIFTI_SUFFIXES
    if suffix not in expected:
        raise refuse(path, "name", path.suffix or "no suffix", " or ".join(expected), "Change the output's name.")
    if tuple(labels.shape) != like.shape:
        raise refuse(path, "shape", labels.shape, f"{like.shape}, the image's", "Restore labels to the image's grid.")
    if labels.size and (labels.min() < 0 or labels.max() > 255):
        raise refuse(path, "values", f"{labels.min()} to {labels.max()}", "0 to 255", "Renumber the classes.")
    if like.dims == 2:
        content = picture_label_bytes(labels)
    else:
        content = nifti_bytes(np.asarray(labels, np.uint8), like, gzipped=suffix == ".nii.gz")
    make_folder(path.parent)
    write_atomic(path, content)


def write_map(path: Path, values: np.ndarray, like: Volume) -> None:
    """Write numbers ``[*S]`` on the grid of ``like``: float32 NIfTI (.nii, .nii.gz), or TIFF (.tif) for a picture.

    The file appears whole or not at all, as in ``write_label``.
    Raises InputError for a name or shape that cannot be written, Unwritable when the disk refuses.
    """
    path = Path(path)
    suffix = image_suffix(path)
    expected = (".tif", ".tiff") if like.dims == 2 else NIFTI_SUFFIXES
    if suffix not in expected:
        raise refuse(path, "name", path.suffix or "no suffix", " or ".join(expected), "Change the output's name.")
    if tuple(values.shape) != like.shape:
        raise refuse(path, "shape", values.shape, f"{like.shape}, the image's", "Restore it to the image's grid.")
    values = np.asarray(values, np.float32)
    content = picture_map_bytes(values) if like.dims == 2 else nifti_bytes(values, like, gzipped=suffix == ".nii.gz")
    make_folder(path.parent)
    write_atomic(path, content)


def _by_suffix(path: Path, *, label: bool, channels: int | None = None) -> Inspected:
    if path.is_dir():
        return _no_label(path) if label else inspect_series(path)
    suffix = image_suffix(path)
    if suffix in NIFTI_SUFFIXES:
        return inspect_nifti_label(path) if label else inspect_nifti(path, channels)
    if suffix in PICTURE_SUFFIXES:
        return inspect_picture_label(path) if label else inspect_picture(path)
    expected = ", ".join(IMAGE_SUFFIXES)
    return None, [Problem(str(path), "name", path.suffix or "no suffix", expected, "Convert the file to one of these.")]


def _no_label(path: Path) -> Inspected:
    fix = "Convert the label to NIfTI on the grid of its image."
    return None, [Problem(str(path), "label", "a folder", "a NIfTI, PNG or TIFF file", fix)]


def _or_raise(volume: Volume | None, problems: list[Problem]) -> Volume:
    if volume is None:
        raise InputError(problem for problem in problems if problem.severity != "warn")
    return volume
