"""Learning methods by the name they have on the command line."""

from foveate.methods.adversarial import Adversarial
from foveate.methods.adversarial_constraint import AdversarialConstraint
from foveate.methods.copy_paste import CopyPaste
from foveate.methods.cross_consistency import CrossConsistency
from foveate.methods.cross_pseudo import CrossPseudo
from foveate.methods.cross_teaching import CrossTeaching
from foveate.methods.deep_belief import DeepBelief
from foveate.methods.dual_task import DualTask
from foveate.methods.entropy_minimisation import EntropyMinimisation
from foveate.methods.fixmatch import FixMatch
from foveate.methods.interpolation_consistency import InterpolationConsistency
from foveate.methods.masked_autoencoder import MaskedAutoencoder
from foveate.methods.mean_teacher import MeanTeacher
from foveate.methods.method import Method
from foveate.methods.mutual_consistency import MutualConsistency
from foveate.methods.pi_model import PiModel
from foveate.methods.pyramid_consistency import PyramidConsistency
from foveate.methods.self_training import SelfTraining
from foveate.methods.supervised import Supervised
from foveate.methods.temporal_ensembling import TemporalEnsembling
from foveate.methods.uncertainty_mean_teacher import UncertaintyMeanTeacher
from foveate.methods.unimatch import UniMatch

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "adversarial": Adversarial,
    "adversarial_constraint": AdversarialConstraint,
    "copy_paste": CopyPaste,
    "cross_consistency": CrossConsistency,
    "cross_pseudo": CrossPseudo,
    "cross_teaching": CrossTeaching,
    "dual_task": DualTask,
    "entropy_minimisation": EntropyMinimisation,
    "fixmatch": FixMatch,
    "interpolation_consistency": InterpolationConsistency,
    "mean_teacher": MeanTeacher,
    "mutual_consistency": MutualConsistency,
    "pi_model": PiModel,
    "pyramid_consistency": PyramidConsistency,
    "self_training": SelfTraining,
    "temporal_ensembling": TemporalEnsembling,
    "uncertainty_mean_teacher": UncertaintyMeanTeacher,
    "unimatch": UniMatch,
    "masked_autoencoder": MaskedAutoencoder,
    "deep_belief": DeepBelief,
}

# What --pretrain may name: the method that makes the weights to start from.
PRETRAINING = {"masked_autoencoder": "masked_autoencoder", "dbn": "deep_belief"}

# Share of the images that have labels, up to which the mean teacher won or was level (docs/benchmarks.md).
FEW = {"segmentation": 1 / 6, "classification": 0.07}


def default_method(task: str, labelled: int, unlabelled: int) -> str:
    """What trains where no method is asked for: the one that measured best.

    The mean teacher where few of many images have a label or a class, else the baseline.
    """
    return "mean_teacher" if labelled <= FEW.get(task, 0) * (labelled + unlabelled) else "supervised"


__all__ = ["METHODS", "PRETRAINING", "DeepBelief", "Method", "SelfTraining", "Supervised", "default_method"]
