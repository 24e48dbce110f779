"""The device and number format that a run computes with."""

from __future__ import annotations

import os

import torch
from lightning_fabric import Fabric

from foveate.config import Config
from foveate.errors import refuse
from foveate.predict.precision import bfloat16_pays


def launch(settings: Config) -> Fabric:
    """Lightning Fabric on the configured device, bfloat16 where the processor computes with it.

    Raises InputError when the device is not there.
    """
    name, _, index = settings.device.partition(":")
    found = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in found.items() if there)
    there = found[name] and (name != "gpu" or int(index or 0) < torch.cuda.device_count())
    if not there:
        have = ", ".join(device for device, is_there in found.items() if is_there)
        raise refuse(
            "configuration", "device", settings.device, f"one of {have}", "Leave --device away to use the best one."
        )
    accelerator = {"gpu": "cuda"}.get(name, name)
    devices = [int(index)] if index else 1
    device = torch.device("cuda" if name == "gpu" else name)
    half = settings.precision == "bfloat16" or (settings.precision == "auto" and bfloat16_pays(device))
    fabric = Fabric(accelerator=accelerator, devices=devices, precision="bf16-mixed" if half else "32-true")
    fabric.launch()
    return fabric


def workers() -> int:
    """Threads for reading and preparing scans."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
