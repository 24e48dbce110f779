"""Labels that are no maps, as the network is to answer them: one vector for a case, or its boxes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foveate.batches.boxes import IGNORED
from foveate.batches.grid import Grid
from foveate.cohort.cohort import Case
from foveate.cohort.plan import Plan


def class_target(case: Case, plan: Plan, grid: Grid) -> np.ndarray:
    """float32 ``[K]``: 1 for each class that the case has."""
    return np.array([name in case.target for name in plan.classes], np.float32)


def value_target(case: Case, plan: Plan, grid: Grid) -> np.ndarray:
    """float32 ``[1]``: the number, standardised by the plan."""
    return np.array([(case.target - plan.target_mean) / plan.target_std], np.float32)


def box_target(case: Case, plan: Plan, grid: Grid) -> np.ndarray:
    """float32 ``[N, 2 n + 1]``: boxes in voxels of the prepared image, class last (IGNORED where it does not count)."""
    edges = np.array([box.edges for box in case.target], np.float32).reshape(-1, 2 * plan.dims)
    kinds = [IGNORED if box.ignored else list(plan.classes).index(box.name) for box in case.target]
    return np.column_stack([grid.boxes_to_prepared(edges), np.array(kinds, np.float32)]).astype(np.float32)


# Of each task whose labels are not maps: (case with a label, plan, grid of its prepared image) -> array.
TARGETS: dict[str, Callable[[Case, Plan, Grid], np.ndarray]] = {
    "classification": class_target,
    "regression": value_target,
    "detection": box_target,
}
