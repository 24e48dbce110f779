"""How good predictions are: overlap, distances in mm, scores of classes and values, intervals over patients."""

from foveate.metrics.dispatch import evaluate
from foveate.metrics.evaluation import evaluate_labels
from foveate.metrics.overlap import dice_per_class
from foveate.metrics.result import Evaluation, paired_difference
from foveate.metrics.task_result import TaskEvaluation

__all__ = ["Evaluation", "TaskEvaluation", "dice_per_class", "evaluate", "evaluate_labels", "paired_difference"]
