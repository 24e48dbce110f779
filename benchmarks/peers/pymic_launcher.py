"""Runs a command of PyMIC in PyMIC's environment, on a CPU too:

    pymic_launcher.py train|predict cpu|cuda wall|processor ARGUMENTS

PyMIC 0.6.2 names "cuda:N" as the device of every network, so on a CPU it gets a ``torch`` whose devices are the CPU. It
also imports torchvision, whose wheel asks for another build of torch than the CPU's: its Python code loads once two of
its operators, which PyMIC does not use, have a name. The times that it logs are by the clock that is named. Nothing
that computes is touched.
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


class ProcessorTime:
    """``time``, in which passes what the processor worked, per thread."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def time(self) -> float:
        return sum(os.times()[:4]) / self.threads


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
    command, device, clock, *arguments = sys.argv[1:]
    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    load_torchvision()
    agent: Any = importlib.import_module("pymic.net_run.agent_seg")
    if device == "cpu":
        agent.torch = TorchOnCpu()
    if clock == "processor":
        agent.time = ProcessorTime(threads)
    sys.argv = [f"pymic_{command}", *arguments]
    importlib.import_module(f"pymic.net_run.{command}").main()


if __name__ == "__main__":
    main()
