"""What one case is like: read once, judged and measured."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation

from foveate.cohort.cohort import IGNORE, Case
from foveate.errors import InputError, Problem
from foveate.io import Volume, image_files, inspect_image, inspect_label
from foveate.io.files import grid_difference
from foveate.io.stream import unreadable

PERCENTILES = (0.5, 5.0, 50.0, 95.0, 99.5)
SAMPLE = 1_000_000  # voxels that are enough for a percentile
BLOCKS = 6  # per axis of a thumbnail
LOOKED_AT = 32  # voxels per axis that are enough for a thumbnail
# An image in which more than this share is exactly 0 has an empty background, which says nothing of its contrast.
BACKGROUND = 0.25


class Foreground(NamedTuple):
    """Intensities of one channel inside the labelled structures; low and high are percentiles 0.5 and 99.5."""

    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class CaseFacts:
    """Measurements of one case, axes in the file's own order.

    spacing: mm (pixels for pictures). percentiles: per channel at PERCENTILES. foreground: per channel, or None
    without labelled voxels. voxels: {label value: count} with background, or None without label. sha256,
    label_sha256: of the files' bytes. content: hash of shape, position and voxel values, equal for copies that were
    only compressed anew. thumbnail: per channel, what ``thumbnail`` gives. orientation: where the axes point, "RAS";
    "" for pictures. stored: data type in the file. Whatever there is per channel is NaN for a missing one.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    percentiles: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    foreground: tuple[Foreground, ...] | None
    voxels: dict[int, int] | None
    sha256: str
    label_sha256: str | None
    content: str
    label_content: str | None
    thumbnail: tuple[tuple[float, ...], ...]
    orientation: str
    stored: str

    @property
    def channels(self) -> int:
        return len(self.mean)

    def has(self, channel: int) -> bool:
        """Whether a channel is there, and not a missing modality."""
        return not math.isnan(self.mean[channel])

    @property
    def voxel_volume(self) -> float:
        """Millilitres that a voxel fills; for pictures 1 (pixel)."""
        return float(np.prod(self.spacing)) / 1000 if len(self.shape) == 3 else 1.0

    @property
    def structures(self) -> dict[int, int]:
        """{label value: voxels} without background and the value that is always ignored."""
        return {value: count for value, count in (self.voxels or {}).items() if value not in (0, IGNORE)}


Facts = dict[str, CaseFacts]  # by case id


def measure_case_safely(
    case: Case, channels: int | None, ignore: int | None = None
) -> tuple[CaseFacts | None, list[Problem]]:
    """``measure_case``; a case that does not fit into memory beside the others is named, the check goes on."""
    try:
        return measure_case(case, channels, ignore)
    except MemoryError:
        fix = "Close other programs, crop or resample the image, or use a larger machine."
        found = "memory ran out while it was read"
        return None, [Problem(str(case.images[0]), "size", found, "an image that fits", fix, case=case.id)]


def measure_case(case: Case, channels: int | None, ignore: int | None = None) -> tuple[CaseFacts | None, list[Problem]]:
    """Read a case's image and label (if it has one) and return its facts, or None, and all its problems.

    channels: number of channels that the dataset declares, or None. ignore: a label value left out of ``foreground``.
    """
    image, problems = inspect_image(case.images, channels, case.missing)
    label: Volume | None = None
    if case.label is not None:
        label, found = inspect_label(case.label)
        problems = problems + found
        if image is not None and label is not None and (difference := grid_difference(label, image)):
            problems.append(difference)
    facts = None
    if image is not None and all(problem.severity == "warn" for problem in problems):
        try:
            facts = _facts(case, image, label, ignore)
        except OSError as error:  # it vanished between reading and hashing
            problems += unreadable(Path(error.filename or case.images[0]), error).problems
        except InputError as error:
            problems += error.problems
    return facts, [replace(problem, case=case.id) for problem in problems]


def _facts(case: Case, image: Volume, label: Volume | None, ignore: int | None) -> CaseFacts:
    foreground, voxels = None, None
    if label is not None:
        voxels = _count(label.array)
        inside = (label.array[0] > 0) & (label.array[0] != IGNORE) & (label.array[0] != (ignore or 0))
        if inside.any():
            foreground = tuple(_foreground(channel[inside]) for channel in image.array)
    samples = [_sample(channel) for channel in image.array]
    return CaseFacts(
        shape=image.shape,
        spacing=image.spacing,
        percentiles=tuple(tuple(map(float, np.percentile(sample, PERCENTILES))) for sample in samples),
        mean=tuple(float(channel.mean(dtype=np.float64)) for channel in image.array),
        std=tuple(float(channel.std(dtype=np.float64)) for channel in image.array),
        foreground=foreground,
        voxels=voxels,
        sha256=file_hash(case.images),
        label_sha256=file_hash([case.label]) if case.label is not None else _said(case.target),
        content=_content(image),
        label_content=_content(label) if label is not None else _said(case.target),
        thumbnail=tuple(thumbnail(channel, image.affine) for channel in image.array),
        orientation="".join(nib.aff2axcodes(image.affine)) if image.dims == 3 else "",
        stored=str(image.meta.get("stored", "")),
    )


def _said(target: object) -> str | None:
    """Hash of a label that is no map; None without label."""
    return None if target is None else hashlib.sha256(repr(target).encode()).hexdigest()


def _count(labels: np.ndarray) -> dict[int, int]:
    """{value: voxels}."""
    if labels.dtype == np.uint8:  # counting is much faster than sorting
        counts = np.bincount(labels.ravel(order="K"))
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(labels, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def _sample(channel: np.ndarray) -> np.ndarray:
    """At most about SAMPLE voxels, evenly spread and always the same."""
    flat = channel.ravel(order="K")
    step = -(-flat.size // SAMPLE)
    return flat[:: step | 1]  # an odd step does not keep to one column of a grid of even size


def thumbnail(channel: np.ndarray, affine: np.ndarray) -> tuple[float, ...]:
    """Means of BLOCKS blocks along each axis ``[*S]``, flat, in canonical order; normalised as an image of z-scores is.

    It is the same for an image times a positive number plus a constant.
    """
    small = channel[tuple(slice(None, None, max(n // LOOKED_AT, 1)) for n in channel.shape)].astype(np.float64)
    values = small.ravel()
    if np.mean(values == 0) > BACKGROUND and values.any():
        values = values[values != 0]
    low, high = np.percentile(values, (0.5, 99.5))
    values = values.clip(low, high)
    small = (small.clip(low, high) - values.mean()) / (values.std() or 1.0)
    for axis, n in enumerate(small.shape):
        starts = np.arange(BLOCKS) * n // BLOCKS
        if n < BLOCKS:
            small = small.take(starts, axis)
        else:
            counts = np.diff(np.append(starts, n)).reshape([-1 if a == axis else 1 for a in range(small.ndim)])
            small = np.add.reduceat(small, starts, axis) / counts
    if small.ndim == 3:
        small = apply_orientation(small, io_orientation(affine))
    return tuple(np.round(small.ravel(), 4).tolist())


def canonical(values: Sequence[float], orientation: str) -> tuple[float, ...]:
    """Per-axis values of a file, put into the order of its axes once they run to right, anterior, superior.

    >>> canonical((10, 20, 30), "SRA")
    (20, 30, 10)
    """
    if not orientation:
        return tuple(values)
    ordered = list(values)
    for axis, world in enumerate(axcodes2ornt(orientation)[:, 0].astype(int)):
        ordered[world] = values[axis]
    return tuple(ordered)


def _foreground(values: np.ndarray) -> Foreground:
    low, high = np.percentile(_sample(values), (0.5, 99.5))
    return Foreground(
        float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)), float(low), float(high)
    )


def file_hash(paths: tuple[Path, ...] | list[Path]) -> str:
    """SHA-256 over the SHA-256 of each file's bytes, in order; of a DICOM series, of all its files."""
    digest = hashlib.sha256()
    for path in (file for image in paths for file in image_files(image)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _content(volume: Volume) -> str:
    digest = hashlib.sha256(repr((volume.shape, np.round(volume.affine, 3).tolist())).encode())
    for channel in volume.array:
        digest.update(np.ascontiguousarray(channel.T).data)  # no copy for NIfTI, whose first axis runs fastest
    return digest.hexdigest()
