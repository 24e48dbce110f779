"""Learning methods by the name they have on the command line."""

from foveate.methods.copy_paste import CopyPaste
from foveate.methods.cross_consistency import CrossConsistency
from foveate.methods.entropy_minimisation import EntropyMinimisation
from foveate.methods.fixmatch import FixMatch
from foveate.methods.interpolation_consistency import InterpolationConsistency
from foveate.methods.mean_teacher import MeanTeacher
from foveate.methods.method import Method
from foveate.methods.pi_model import PiModel
from foveate.methods.supervised import Supervised
from foveate.methods.uncertainty_mean_teacher import UncertaintyMeanTeacher
from foveate.methods.unimatch import UniMatch

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "copy_paste": CopyPaste,
    "cross_consistency": CrossConsistency,
    "entropy_minimisation": EntropyMinimisation,
    "fixmatch": FixMatch,
    "interpolation_consistency": InterpolationConsistency,
    "mean_teacher": MeanTeacher,
    "pi_model": PiModel,
    "uncertainty_mean_teacher": UncertaintyMeanTeacher,
    "unimatch": UniMatch,
}

__all__ = ["METHODS", "CopyPaste", "MeanTeacher", "Method", "Supervised"]
