"""Tasks by name, and the one that a plan asks for."""

from foveate.cohort.plan import Plan
from foveate.tasks.classification import Classification
from foveate.tasks.detection import Boxes, Detection
from foveate.tasks.hierarchy import HierarchicalSegmentation
from foveate.tasks.regression import Regression
from foveate.tasks.segmentation import Segmentation
from foveate.tasks.task import Target, Task

TASKS: dict[str, type[Task]] = {
    "segmentation": Segmentation,
    "classification": Classification,
    "regression": Regression,
    "detection": Detection,
}


def build_task(plan: Plan) -> Task:
    """The task of a plan: segmentation of a label tree where the plan has one."""
    return HierarchicalSegmentation(plan) if plan.tree else TASKS[plan.task](plan)


__all__ = [
    "TASKS",
    "Boxes",
    "Classification",
    "Detection",
    "HierarchicalSegmentation",
    "Regression",
    "Segmentation",
    "Target",
    "Task",
    "build_task",
]
