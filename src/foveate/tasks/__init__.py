"""Tasks by name, and the one that a plan asks for."""

from foveate.cohort.plan import Plan
from foveate.tasks.segmentation import Segmentation, Target

TASKS = {"segmentation": Segmentation}


def build_task(plan: Plan) -> Segmentation:
    """The task of a plan."""
    return Segmentation(plan)


__all__ = ["TASKS", "Segmentation", "Target", "build_task"]
