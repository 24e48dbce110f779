"""Foveate: medical-image models from few labelled and many unlabelled scans.

>>> import foveate
>>> foveate.train("scans", "run", minutes=30)          # doctest: +SKIP
>>> foveate.load("run").predict("new_scan.nii.gz")     # doctest: +SKIP
>>> foveate.predict_files("run", "new", "predictions") # doctest: +SKIP
>>> foveate.evaluate("predictions", "labels")          # doctest: +SKIP

Heavy imports (torch) happen when a function is first used, so that ``import foveate`` stays quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "check", "evaluate", "explain", "labels_needed", "load", "predict_files", "train"]

_HOMES = {
    "check": "foveate.cohort.check",
    "train": "foveate.engine.train",
    "load": "foveate.predict.predictor",
    "predict_files": "foveate.predict.files",
    "explain": "foveate.explanations.explain",
    "evaluate": "foveate.metrics.dispatch",
    "labels_needed": "foveate.choose.labels_needed",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'foveate' has no attribute {name!r}")
