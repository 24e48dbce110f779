"""Prepared cases on disk: memory-mapped arrays that appear under their final name only when complete."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from foveate.batches.grid import Grid

# errno values that mean that nothing more can be written here.
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class PreparedCase:
    """One case on disk. Arrays are opened when first asked for and stay memory-mapped.

    image_path: float16 [C, *S']. label_path: uint8 [*S'] label values, 255 = ignored; None when unlabelled.
    voxels_path: int32 [N, 1 + dims], label value and voxel index of up to VOXELS_PER_CLASS voxels of each class.
    """

    id: str
    grid: Grid
    image_path: Path
    label_path: Path | None = None
    voxels_path: Path | None = None

    @cached_property
    def image(self) -> np.ndarray:
        return np.load(self.image_path, mmap_mode="r")

    @cached_property
    def label(self) -> np.ndarray | None:
        return None if self.label_path is None else np.load(self.label_path, mmap_mode="r")

    @cached_property
    def voxels(self) -> dict[int, np.ndarray]:
        """Label value -> int32 [N, dims]: where that class is, for patches centred on foreground."""
        if self.voxels_path is None:
            return {}
        table = np.load(self.voxels_path)
        return {int(value): table[table[:, 0] == value, 1:] for value in np.unique(table[:, 0])}

    @property
    def spacing(self) -> tuple[float, ...]:
        """mm per axis of the prepared arrays (pixels for pictures)."""
        return self.grid.spacing

    @property
    def shape(self) -> tuple[int, ...]:
        return self.grid.prepared_shape


class PreparedCohort(Mapping[str, PreparedCase]):
    """Case id -> PreparedCase, in the cohort's order. Holds paths and grids, no voxels."""

    def __init__(self, cases: Mapping[str, PreparedCase]) -> None:
        self._cases = dict(cases)

    def __getitem__(self, case: str) -> PreparedCase:
        return self._cases[case]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cases)

    def __len__(self) -> int:
        return len(self._cases)

    @property
    def labelled(self) -> list[str]:
        return [case for case, prepared in self._cases.items() if prepared.label_path is not None]

    @property
    def unlabelled(self) -> list[str]:
        return [case for case, prepared in self._cases.items() if prepared.label_path is None]


def file_stem(case: str, key: str) -> str:
    """File name for one cached part: readable, and safe whatever the case is called."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', case)[:60]}-{key}"


def write_array(path: Path, array: np.ndarray) -> None:
    """``array`` as .npy, complete or not at all: temporary file, fsync, rename. Raises OSError with its errno."""
    array = np.ascontiguousarray(array)
    with _replacing(path) as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        # np.save would lose the errno of a full disk.
        stream.write(array.reshape(-1).view(np.uint8).data)


def write_grid(path: Path, grid: Grid) -> None:
    """The grid as JSON, as atomically as ``write_array``."""
    with _replacing(path) as stream:
        stream.write(json.dumps(grid.to_json()).encode())


def read_grid(path: Path) -> Grid | None:
    """The stored grid, or None when there is none that can be read."""
    try:
        return Grid.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def complete(path: Path, dtype: type, shape: tuple[int | None, ...]) -> bool:
    """True when ``path`` is a whole .npy of that type and shape (None: any size); only the header is read."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    sizes = zip(array.shape, shape, strict=False)
    return array.dtype == dtype and array.ndim == len(shape) and all(b is None or a == b for a, b in sizes)


class _Stream:
    """Binary output that fsyncs; unbuffered, so that every error comes from the write that caused it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def write(self, data: bytes | memoryview) -> int:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.descriptor, rest[: 1 << 26]) :]
        return len(data)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[_Stream]:
    descriptor, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        try:
            yield _Stream(descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
