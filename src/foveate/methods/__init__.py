"""Learning methods by the name they have on the command line."""

from foveate.methods.copy_paste import CopyPaste
from foveate.methods.masked_autoencoder import MaskedAutoencoder
from foveate.methods.mean_teacher import MeanTeacher
from foveate.methods.method import Method
from foveate.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "mean_teacher": MeanTeacher,
    "copy_paste": CopyPaste,
    "masked_autoencoder": MaskedAutoencoder,
}

__all__ = ["METHODS", "CopyPaste", "MaskedAutoencoder", "MeanTeacher", "Method", "Supervised"]
