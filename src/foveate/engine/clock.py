"""What a bound in minutes counts: time as it passes, or the processor's time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch


def processor_seconds() -> float:
    """Processor seconds of this process, and of those that it has waited for, per thread that computes.

    What other programs take of a shared machine is not in it, so that trainings can be compared that ran side by side.
    It says nothing of what a GPU does.
    """
    return (time.process_time() + sum(os.times()[2:4])) / torch.get_num_threads()


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "processor": processor_seconds}
