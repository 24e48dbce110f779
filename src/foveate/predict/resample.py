"""From sums of logits (or other maps) on the prepared grid to the input's own grid, a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from foveate.batches.grid import Grid, Taps, linear_taps, resample_axis
from foveate.predict.sliding import Column

# Logits held at the input's resolution while labels are decided, in bytes.
SLAB = 1 << 26


def way_back(grid: Grid) -> list[Taps]:
    """Linear weights per axis from the prepared to the canonical grid, over the same physical extent."""
    return [linear_taps(m, n) for n, m in zip(grid.canonical_shape, grid.prepared_shape, strict=True)]


class Restorer:
    """Writes one column of the output: ``roll`` calls it with each final stretch of rows.

    taps: see ``way_back``. before: padding in front of the prepared volume per axis. decode: logits
    ``[1, K, *S]`` -> labels ``[1, *S]``, or other maps -> ``[1, M, *S]``. out: canonical view ``[*S]`` or
    ``[M, *S]`` of the output.
    """

    def __init__(
        self,
        column: Column,
        axis: int,
        taps: Sequence[Taps],
        before: Sequence[int],
        decode: Callable[[Tensor], Tensor],
        out: np.ndarray,
    ) -> None:
        self.axis, self.before, self.decode = axis, before[axis], decode
        self.across = {a: taps[a].rows(*column.out[a])[0] for a in range(len(taps)) if a != axis}
        self.along = taps[axis]
        own = (slice(*bounds) if a != axis else slice(None) for a, bounds in enumerate(column.out))
        self.out = out[(..., *own)]
        self.shape = self.out.shape[-len(taps) :]
        self.next = 0
        # Output row i can be made once all prepared rows up to reach[i] are final; it reads from first[i] on.
        self.first = (self.along.index.amin(1) + self.before).tolist()
        self.reach = (self.along.index.amax(1) + self.before).tolist()

    def __call__(self, sums: Tensor, weights: Tensor, base: int, final: int) -> int:
        stop = self.next
        while stop < len(self.reach) and self.reach[stop] < final:
            stop += 1
        row = 4 * len(sums) * math.prod(n for a, n in enumerate(self.shape) if a != self.axis)
        step = max(1, SLAB // row)
        for start in range(self.next, stop, step):
            self._write(sums, weights, base, start, min(stop, start + step))
        self.next = stop
        return self.first[stop] if stop < len(self.first) else final

    def _write(self, sums: Tensor, weights: Tensor, base: int, start: int, stop: int) -> None:
        part, low, high = self.along.rows(start, stop)
        low, count = low + self.before - base, high - low
        logits = sums.narrow(self.axis + 1, low, count) / weights.narrow(self.axis, low, count)
        ways = {**self.across, self.axis: part}
        for axis in sorted(ways, key=lambda a: len(ways[a].index) / ways[a].n_in):  # what shrinks goes first
            logits = resample_axis(logits, axis + 1, ways[axis])
        place: list[Any] = [...] + [slice(None)] * len(self.shape)
        place[self.axis + 1] = slice(start, stop)
        self.out[tuple(place)] = self.decode(logits[None])[0].cpu().numpy()
