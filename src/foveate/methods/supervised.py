"""The baseline: labelled scans alone."""

from __future__ import annotations

from typing import ClassVar

from foveate.methods.method import ANY_TASK, BOXES, Method


class Supervised(Method):
    """Minimises the task's loss on labelled images; the model is the EMA of the weights, as in every method."""

    uses_unlabelled: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = (*ANY_TASK, BOXES)
