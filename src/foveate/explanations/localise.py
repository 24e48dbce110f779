"""From a map of evidence to what it points at: a mask, and a box around each of its parts.

Source: Zhou et al., CVPR 2016, sec. 3.2 (a threshold relative to the map's maximum). Departures: the threshold is the
one with the best overlap on cases that have masks, or Otsu's where none has; every part is answered, the strongest
first, not the largest alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from foveate.metrics.localisation import above, best_threshold, otsu


@dataclass(frozen=True)
class Threshold:
    """Where evidence begins to count, as a share of the map's maximum. share: None: each map's own, by Otsu.

    cases: how many with masks it was chosen on.
    """

    share: float | None = None
    cases: int = 0

    @classmethod
    def chosen(cls, maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> Threshold:
        """The best for these maps and masks, each ``[*S]``; Otsu's when there are none."""
        return cls(best_threshold(maps, masks), len(maps)) if maps else cls()

    def of(self, values: np.ndarray) -> float:
        return otsu(values) if self.share is None else self.share

    def mask(self, values: np.ndarray) -> np.ndarray:
        """Where a map ``[*S]`` reaches it: bool ``[*S]``."""
        return above(values, self.of(values))

    def summary(self) -> dict[str, Any]:
        source = "Otsu, for each map" if self.share is None else f"best overlap on {self.cases} cases with masks"
        return {"share_of_maximum": self.share, "chosen_by": source}


def boxes(mask: np.ndarray, values: np.ndarray) -> list[dict[str, Any]]:
    """A box around each connected part of ``mask [*S]``, that of the highest value first.

    low, high: corners in voxels of the array, ``high`` just beyond the last. highest: of ``values`` inside.
    """
    parts, _ = ndimage.label(mask)
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        highest = float(values[box][parts[box] == number].max())
        found.append({"low": [s.start for s in box], "high": [s.stop for s in box], "highest": highest})
    return sorted(found, key=lambda entry: -entry["highest"])
