"""Tasks by name, and the one that a plan asks for."""

from foveate.cohort.plan import Plan
from foveate.tasks.hierarchy import HierarchicalSegmentation
from foveate.tasks.segmentation import Segmentation, Target

TASKS = {"segmentation": Segmentation}


def build_task(plan: Plan) -> Segmentation:
    """The task of a plan: segmentation, of a label tree where the plan has one."""
    return HierarchicalSegmentation(plan) if plan.tree else Segmentation(plan)


__all__ = ["TASKS", "HierarchicalSegmentation", "Segmentation", "Target", "build_task"]
