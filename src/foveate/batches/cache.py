"""Prepared cases on disk: memory-mapped arrays that appear under their final name only when complete."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from foveate.batches.grid import Grid
from foveate.files import write_atomic


@dataclass(frozen=True)
class PreparedCase:
    """One case on disk. Arrays are opened when first asked for and stay memory-mapped.

    image_path: float16 [C, *S'], a missing modality NaN. label_path: uint8 [*S'] label values, 255 = ignored; None when
    unlabelled.
    target: float32 [K], or [N, 2 n + 1] of boxes, a label that is no map; label_path, if any, is then such an array: a
    pseudo-label.
    voxels_path: int32 [N, 1 + dims], label value and voxel index of up to VOXELS_PER_CLASS voxels of each class.
    """

    id: str
    grid: Grid
    image_path: Path
    label_path: Path | None = None
    voxels_path: Path | None = None
    target: np.ndarray | None = field(default=None, compare=False)

    @property
    def labelled(self) -> bool:
        return self.label_path is not None or self.target is not None

    @cached_property
    def image(self) -> np.ndarray:
        return np.load(self.image_path, mmap_mode="r")

    @cached_property
    def label(self) -> np.ndarray | None:
        return None if self.label_path is None else np.load(self.label_path, mmap_mode="r")

    @cached_property
    def voxels(self) -> dict[int, np.ndarray]:
        """Label value -> int32 [N, dims]: where that class is, for patches centred on foreground."""
        if self.target is not None and self.target.ndim == 2:  # boxes: their middles
            middles = np.add(*np.split(self.target[:, :-1], 2, axis=1)) // 2
            kinds = self.target[:, -1]
            return {int(k): middles[kinds == k].astype(np.int32) for k in np.unique(kinds) if k >= 0}
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
        return [case for case, prepared in self._cases.items() if prepared.labelled]

    @property
    def unlabelled(self) -> list[str]:
        return [case for case, prepared in self._cases.items() if not prepared.labelled]


def file_stem(case: str, key: str) -> str:
    """File name for one cached part: readable, and safe whatever the case is called."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', case)[:60]}-{key}"


def write_array(path: Path, array: np.ndarray) -> None:
    """``array`` as .npy, complete or not at all. Raises DiskFull."""
    array = np.ascontiguousarray(array)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    write_atomic(path, header.getvalue(), array.reshape(-1).view(np.uint8).data)


def write_grid(path: Path, grid: Grid) -> None:
    """The grid as JSON. Raises DiskFull."""
    write_atomic(path, json.dumps(grid.to_json()))


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
