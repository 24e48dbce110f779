"""How good predictions are: overlap, distances in mm, intervals over patients."""

from foveate.metrics.evaluation import evaluate
from foveate.metrics.overlap import dice_per_class
from foveate.metrics.result import Evaluation, paired_difference

__all__ = ["Evaluation", "dice_per_class", "evaluate", "paired_difference"]
