"""Which device, and whether bfloat16 is worth it there."""

from __future__ import annotations

import torch

from foveate.errors import refuse


def pick_device(name: str | torch.device) -> torch.device:
    """``auto``, ``cpu``, ``mps``, ``gpu``, ``gpu:1`` or a torch device. Raises InputError when it is not there."""
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        name = "gpu" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = name.partition(":")
    index = int(number) if number.isdigit() else 0
    if kind in ("gpu", "cuda") and (not number or number.isdigit()):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if index < count:
            return torch.device("cuda", index)
        raise refuse("--device", "device", name, f"one of {count} GPUs", "Use --device cpu, or install a CUDA torch.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise refuse("--device", "device", name, "an Apple GPU", "Use --device cpu.")
    if name in ("cpu", "mps"):
        return torch.device(name)
    raise refuse("--device", "device", name, "auto, cpu, gpu, gpu:N or mps", "Choose one of these.")


def bfloat16_pays(device: torch.device) -> bool:
    """True where convolutions in bfloat16 run on units of their own; elsewhere they are emulated and slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        features = torch.cpu.get_capabilities()
        return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
    return False
