"""The device and number format that a run computes with."""

from __future__ import annotations

import logging
import os

from lightning_fabric import Fabric

from foveate.config import Config
from foveate.predict.device import bfloat16_pays, pick_device


def launch(settings: Config) -> Fabric:
    """Lightning Fabric on the configured device, bfloat16 where the processor computes with it.

    Raises InputError when the device is not there.
    """
    device = pick_device(settings.device)
    half = settings.precision == "bfloat16" or (settings.precision == "auto" and bfloat16_pays(device))
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what it would say is in the run's records
    fabric = Fabric(
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        precision="bf16-mixed" if half else "32-true",
    )
    fabric.launch()
    return fabric


def workers() -> int:
    """Threads for reading and preparing scans."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
