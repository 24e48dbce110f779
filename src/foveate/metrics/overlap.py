"""Overlap of label maps: every class in one pass over the voxels."""

from __future__ import annotations

import numpy as np

from foveate.cohort.cohort import IGNORE

"""Label value that carries no information, whatever the dataset says."""

_BLOCK = 1 << 16  # voxels per pass: the widened codes stay in the processor's cache


def count_pairs(rows: np.ndarray, columns: np.ndarray, n: int) -> np.ndarray:
    """How often each pair of indices meets: ``[n, n]`` int64, entry (i, j) counts voxels with row i and column j.

    rows, columns: integer arrays of one shape with values in [0, n); n at most 65535.
    """
    if rows.shape != columns.shape:
        raise ValueError(f"shapes differ: {rows.shape} and {columns.shape}")
    # Codes i * n + j in the narrowest type that holds them: one bincount serves every class.
    code = np.dtype(np.uint8 if n * n <= 256 else np.uint16 if n * n <= 65536 else np.int64)
    first, second = rows.reshape(-1), columns.reshape(-1)  # [voxels]
    counts = np.zeros(n * n, dtype=np.int64)
    for start in range(0, first.size, _BLOCK):
        stop = start + _BLOCK
        block = first[start:stop].astype(code, copy=False) * code.type(n) + second[start:stop].astype(code, copy=False)
        filled = np.count_nonzero(block)
        if 2 * filled < block.size:  # mostly background in both: leaving it out costs less than counting it
            counts[0] += block.size - filled
            block = block[block != 0]
        counts += np.bincount(block, minlength=n * n)
    return counts.reshape(n, n)


def dice_per_class(prediction: np.ndarray, reference: np.ndarray, n: int) -> np.ndarray:
    """Dice 2|A and B| / (|A| + |B|) of the n foreground classes: ``[n]`` for the label values 1..n.

    prediction, reference: integer arrays of one shape with values 0..n; voxels whose reference is 255 are left
    out. A class that is in neither is nan; in one of them only, 0. n at most 254.
    Raises ValueError on other values.
    """
    if reference.size == 0:
        return np.full(n, np.nan)
    rows, highest = reference, reference.max()
    if highest == IGNORE:
        kept = reference != IGNORE
        rows, highest = np.where(kept, reference, n + 1), reference.max(where=kept, initial=0)
    if min(prediction.min(), reference.min()) < 0 or max(prediction.max(), highest) > n:
        raise ValueError(f"label values outside 0..{n}")
    counts = count_pairs(rows, prediction, n + 2)[: n + 1]  # the last row holds the ignored voxels
    size = counts.sum(axis=1) + counts.sum(axis=0)[: n + 1]
    with np.errstate(invalid="ignore"):
        return (2 * np.diagonal(counts) / size)[1:]


def values_present(labels: np.ndarray) -> dict[int, int]:
    """Label value -> number of voxels, for the values that occur; labels: integer array of any shape."""
    flat = labels.reshape(-1)
    if flat.size == 0:
        return {}
    low, high = int(flat.min()), int(flat.max())
    if high - low > 65535:
        values, sizes = np.unique(flat, return_counts=True)
        return {int(value): int(size) for value, size in zip(values, sizes, strict=True)}
    counts = np.zeros(high - low + 1, dtype=np.int64)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.int64)
        counts += np.bincount(block - low, minlength=len(counts))
    return {low + int(i): int(counts[i]) for i in np.flatnonzero(counts)}
