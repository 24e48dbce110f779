"""Learning methods by the name they have on the command line."""

from foveate.methods.copy_paste import CopyPaste
from foveate.methods.mean_teacher import MeanTeacher
from foveate.methods.method import Method
from foveate.methods.self_training import SelfTraining
from foveate.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "mean_teacher": MeanTeacher,
    "copy_paste": CopyPaste,
    "self_training": SelfTraining,
}

__all__ = ["METHODS", "CopyPaste", "MeanTeacher", "Method", "SelfTraining", "Supervised"]
