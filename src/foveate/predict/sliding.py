"""Sliding window whose accumulator covers one window's depth of a column of the volume, never the whole of it.

The windows of a column are visited in order along one axis, the rolling axis. Rows that no later window touches are
final: they are handed on and forgotten, and the accumulator moves along. Where even one such accumulator would be
too large (many classes), the cross-section is divided into columns, and windows that reach into two columns are
computed for each. The result does not depend on that division.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.batches.grid import Taps

# [B, C, *window] -> logits [B, K, *window] in float32
Forward = Callable[[Tensor], Tensor]
# (sums [K, rows, ...], weights [rows, ...], first row, row after the last final one) -> first row still needed
Emit = Callable[[Tensor, Tensor, int, int], int]


@dataclass(frozen=True)
class Windows:
    """Where the windows of one volume lie, in voxels of the zero-padded prepared volume.

    size: voxels per axis of a window. starts: per axis. before, padded: padding in front, and the padded shape.
    """

    size: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    before: tuple[int, ...]
    padded: tuple[int, ...]

    @property
    def single(self) -> bool:
        return all(len(starts) == 1 for starts in self.starts)

    def touching(self, axis: int, low: int, high: int) -> tuple[int, ...]:
        """Starts along ``axis`` of the windows that share a voxel with low..high."""
        return tuple(start for start in self.starts[axis] if start < high and start + self.size[axis] > low)


def place_windows(shape: Sequence[int], size: Sequence[int], overlap: float) -> Windows:
    """Evenly spread windows of ``size`` that overlap by at least about the share ``overlap`` and reach every border.

    A volume smaller than the window lies in the middle of it, as in training.
    """
    starts = []
    for n, window in zip(shape, size, strict=True):
        room = max(0, n - window)
        count = math.ceil(room / max(1, int(window * (1 - overlap)))) + 1
        starts.append(tuple(round(i * room / max(1, count - 1)) for i in range(count)))
    before = tuple(max(0, window // 2 - n // 2) for n, window in zip(shape, size, strict=True))
    padded = tuple(max(n, window) for n, window in zip(shape, size, strict=True))
    return Windows(tuple(size), tuple(starts), before, padded)


def gaussian_weights(size: Sequence[int]) -> Tensor:
    """How much each voxel of a window counts ``[*size]``: Gaussian of deviation size / 8, 1 in the middle."""
    weights = torch.ones(())
    for n in size:
        x = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (x / (n / 8)) ** 2)
    # Where only one window reaches, its weight cancels; this keeps it clear of zero.
    return weights.clamp_min(1e-6)


@dataclass(frozen=True)
class Column:
    """A part of the output: canonical voxels ``out[i][0]..out[i][1]`` per axis, and the padded voxels it reads."""

    out: tuple[tuple[int, int], ...]
    box: tuple[tuple[int, int], ...]


def divide(windows: Windows, taps: Sequence[Taps], channels: int, budget: int) -> tuple[int, list[Column]]:
    """The rolling axis and the columns with the fewest windows to compute whose accumulator fits ``budget`` bytes.

    taps: per axis from the prepared to the canonical grid. When nothing fits, the smallest accumulator is taken.
    """
    dims = len(taps)
    parts = [_parts(windows, taps, axis) for axis in range(dims)]
    best: tuple[tuple[bool, int, int, int], int, tuple[int, ...]] | None = None
    for axis in range(dims):
        others = [a for a in range(dims) if a != axis]
        for counts in itertools.product(*(parts[a] for a in others)):
            chosen = [parts[a][count] for a, count in zip(others, counts, strict=True)]
            size = 4 * (channels + 1) * (windows.size[axis] + 1) * math.prod(part.widest for part in chosen)
            cost = len(windows.starts[axis]) * math.prod(part.touched for part in chosen)
            rank = (size > budget, size if size > budget else 0, cost, size)
            if best is None or rank < best[0]:
                best = (rank, axis, counts)
    assert best is not None
    _, axis, counts = best
    ranges = {a: parts[a][count].ranges for a, count in zip((a for a in range(dims) if a != axis), counts, strict=True)}
    ranges[axis] = [(0, len(taps[axis].index))]
    columns = []
    for out in itertools.product(*(ranges[a] for a in range(dims))):
        box = tuple(_reads(windows, taps, a, *bounds) for a, bounds in enumerate(out))
        columns.append(Column(tuple(out), box))
    return axis, columns


@dataclass(frozen=True)
class _Part:
    ranges: list[tuple[int, int]]
    widest: int  # voxels that the widest range reads
    touched: int  # windows that touch the ranges, counted once for each


def _parts(windows: Windows, taps: Sequence[Taps], axis: int) -> dict[int, _Part]:
    """Ways to divide one axis into equal ranges, by their number."""
    n = len(taps[axis].index)
    parts = {}
    for count in range(1, min(n, 48) + 1):
        edges = [round(i * n / count) for i in range(count + 1)]
        ranges = list(itertools.pairwise(edges))
        boxes = [_reads(windows, taps, axis, *bounds) for bounds in ranges]
        touched = sum(len(windows.touching(axis, *box)) for box in boxes)
        parts[count] = _Part(ranges, max(high - low for low, high in boxes), touched)
    return parts


def _reads(windows: Windows, taps: Sequence[Taps], axis: int, start: int, stop: int) -> tuple[int, int]:
    _, low, high = taps[axis].rows(start, stop)
    return low + windows.before[axis], high + windows.before[axis]


@dataclass(frozen=True)
class Scan:
    """A prepared volume and what is to be computed of it.

    image: ``[C, *S']``, not padded. channels: logit maps K. batch: windows per call of ``forward``, on ``device``.
    """

    image: Tensor
    windows: Windows
    channels: int
    forward: Forward
    batch: int
    device: torch.device

    def cut(self, corner: Sequence[int]) -> Tensor:
        """The window at ``corner`` of the padded volume, zeros where there is no image: ``[C, *window]``."""
        size, before = self.windows.size, self.windows.before
        window = self.image.new_zeros(len(self.image), *size)
        here, there = [slice(None)], [slice(None)]
        for a, first in enumerate(corner):
            low = max(0, first - before[a])
            high = min(self.image.shape[a + 1], first - before[a] + size[a])
            here.append(slice(low, high))
            there.append(slice(low + before[a] - first, high + before[a] - first))
        window[tuple(there)] = self.image[tuple(here)]
        return window


def roll(scan: Scan, column: Column, axis: int, emit: Emit) -> None:
    """Compute the windows of ``column`` in order along ``axis``, handing each final stretch of rows to ``emit``.

    ``emit`` gets the weighted sums ``[K, *box]``, whose ``axis`` begins at the given row of the padded volume, and
    the weights to divide them by, and returns the first row that it will want again.
    """
    windows = scan.windows
    # Rows of the box along the rolling axis: those that the buffer now holds.
    shape = [high - low for low, high in column.box]
    shape[axis] = min(windows.size[axis] + 1, windows.padded[axis])
    sums = torch.zeros(scan.channels, *shape, device=scan.device)
    weights = torch.zeros(shape, device=scan.device)
    importance = (torch.ones(windows.size) if windows.single else gaussian_weights(windows.size)).to(scan.device)
    across = [windows.touching(a, *box) if a != axis else (0,) for a, box in enumerate(column.box)]
    base = 0
    for number, start in enumerate(windows.starts[axis]):
        held = list(column.box)
        held[axis] = (base, base + shape[axis])
        corners = [(*c[:axis], start, *c[axis + 1 :]) for c in itertools.product(*across)]
        for i in range(0, len(corners), scan.batch):
            some = corners[i : i + scan.batch]
            logits = scan.forward(torch.stack([scan.cut(corner) for corner in some]).to(scan.device))
            for corner, one in zip(some, logits, strict=True):
                _add(one, importance, corner, held, sums, weights)
            del logits
        last = number + 1 == len(windows.starts[axis])
        final = windows.padded[axis] if last else windows.starts[axis][number + 1]
        needed = min(final, emit(sums, weights, base, final))
        if not last:
            for buffer in (*sums, weights):
                _shift(buffer, axis, needed - base)
            base = needed


def _add(
    logits: Tensor,
    importance: Tensor,
    corner: Sequence[int],
    held: list[tuple[int, int]],
    sums: Tensor,
    weights: Tensor,
) -> None:
    """Add the part of one window's ``logits [K, *window]`` that lies in ``held`` to the sums."""
    inside, there = [], []
    for first, n, (low, high) in zip(corner, importance.shape, held, strict=True):
        start, stop = max(first, low), min(first + n, high)
        inside.append(slice(start - first, stop - first))
        there.append(slice(start - low, stop - low))
    part = importance[tuple(inside)]
    sums[(slice(None), *there)].addcmul_(logits[(slice(None), *inside)], part)
    weights[tuple(there)] += part


def _shift(buffer: Tensor, axis: int, rows: int) -> None:
    """Forget the first ``rows`` of ``buffer`` along ``axis``; zeros come in at the end."""
    keep = buffer.shape[axis] - rows
    kept = buffer.narrow(axis, rows, keep).clone()
    buffer.narrow(axis, 0, keep).copy_(kept)
    buffer.narrow(axis, keep, rows).zero_()
