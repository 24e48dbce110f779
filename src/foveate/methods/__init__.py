"""Learning methods by the name they have on the command line."""

from foveate.methods.adversarial import Adversarial
from foveate.methods.copy_paste import CopyPaste
from foveate.methods.cross_pseudo import CrossPseudo
from foveate.methods.cross_teaching import CrossTeaching
from foveate.methods.dual_task import DualTask
from foveate.methods.masked_autoencoder import MaskedAutoencoder
from foveate.methods.mean_teacher import MeanTeacher
from foveate.methods.method import Method
from foveate.methods.mutual_consistency import MutualConsistency
from foveate.methods.pyramid_consistency import PyramidConsistency
from foveate.methods.self_training import SelfTraining
from foveate.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "self_training": SelfTraining,
    "mean_teacher": MeanTeacher,
    "copy_paste": CopyPaste,
    "cross_pseudo": CrossPseudo,
    "cross_teaching": CrossTeaching,
    "pyramid_consistency": PyramidConsistency,
    "dual_task": DualTask,
    "mutual_consistency": MutualConsistency,
    "adversarial": Adversarial,
    "masked_autoencoder": MaskedAutoencoder,
}

__all__ = ["METHODS", "CopyPaste", "MaskedAutoencoder", "MeanTeacher", "Method", "SelfTraining", "Supervised"]
