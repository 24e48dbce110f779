"""Runs a command of PyMIC in PyMIC's environment, on a CPU too: pymic_launcher.py train|predict cpu|cuda ARGUMENTS.

PyMIC 0.6.2 names "cuda:N" as the device of every network, so on a CPU it gets a ``torch`` whose devices are the CPU. It
also imports torchvision, whose wheel asks for another build of torch than the CPU's: its Python code loads once two of
its operators, which PyMIC does not use, have a name. Nothing that computes is touched.
"""

import importlib
import os
import sys
from typing import Any

import torch

UNUSED = ("nms", "qnms")


class TorchOnCpu:
    """``torch``, in which every device is the CPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def device(self, *_: Any) -> torch.device:
        return torch.device("cpu")


def load_torchvision() -> None:
    """Import torchvision, without its compiled operators where they do not load."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in UNUSED:
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


def main() -> None:
    command, device, *arguments = sys.argv[1:]
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    load_torchvision()
    if device == "cpu":
        importlib.import_module("pymic.net_run.agent_seg").torch = TorchOnCpu()  # type: ignore[attr-defined]
    sys.argv = [f"pymic_{command}", *arguments]
    importlib.import_module(f"pymic.net_run.{command}").main()


if __name__ == "__main__":
    main()
