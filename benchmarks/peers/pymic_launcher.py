"""Runs a command of PyMIC in PyMIC's environment, on a CPU too: pymic_launcher.py train|predict cpu|cuda ARGUMENTS.

PyMIC 0.6.2 names "cuda:N" as the device of every network, and imports torchvision, whose wheel does not load beside
another build of torch than its own. It uses ``transforms.Compose`` of it, and ``models`` for classification only. So
this puts a stand-in for torchvision where the real one does not load, and on a CPU gives PyMIC a ``torch`` whose
devices are the CPU. Nothing that computes is touched.
"""

import importlib
import os
import sys
import types
from typing import Any

import torch


class Compose:
    """One transform after the other."""

    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, sample: Any) -> Any:
        for transform in self.transforms:
            sample = transform(sample)
        return sample


class TorchOnCpu:
    """``torch``, in which every device is the CPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def device(self, *_: Any) -> torch.device:
        return torch.device("cpu")


def main() -> None:
    command, device, *arguments = sys.argv[1:]
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        stand_in = types.ModuleType("torchvision")
        for part in ("transforms", "models"):
            module = types.ModuleType(f"torchvision.{part}")
            setattr(stand_in, part, module)
            sys.modules[module.__name__] = module
        stand_in.transforms.Compose = Compose  # type: ignore[attr-defined]
        sys.modules["torchvision"] = stand_in
    if device == "cpu":
        importlib.import_module("pymic.net_run.agent_seg").torch = TorchOnCpu()  # type: ignore[attr-defined]
    sys.argv = [f"pymic_{command}", *arguments]
    importlib.import_module(f"pymic.net_run.{command}").main()


if __name__ == "__main__":
    main()
