"""A model on disk: ``model.json`` (what it is) and ``weights.safetensors`` (numbers). Nothing in it can run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

import foveate
from foveate.cohort.plan import Plan
from foveate.config import NetworkConfig, Strict
from foveate.errors import InputError, invalid, refuse
from foveate.files import write_atomic

DESCRIPTION, WEIGHTS = "model.json", "weights.safetensors"
FORMAT = 1
RESTORE = "Copy the model folder again, or write it anew with foveate train DATA RUN --resume."
# Formats that are, or may hold, a pickle: opening one can run any program.
PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib", ".npz", ".tar", ".th"}


class Description(Strict):
    """What model.json holds. weights_sha256: of the bytes of weights.safetensors."""

    format: int
    foveate: str
    task: dict[str, Any]
    network: NetworkConfig
    plan: Plan
    weights_sha256: str
    extra: dict[str, Any]


@dataclass
class SavedModel:
    """A model read from ``folder``: everything that is needed to build the network and label a scan.

    sha256: of the bytes of weights.safetensors.
    """

    folder: Path
    network: NetworkConfig
    task: dict[str, Any]
    plan: Plan
    state: dict[str, Tensor]
    extra: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""


def save_model(
    folder: Path,
    network: NetworkConfig,
    task: Mapping[str, Any],
    plan: Plan,
    state: Mapping[str, Tensor],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model into ``folder``. Each file appears whole or not at all.

    task: its name, and whatever else a reader may want to know of it. state: the network's ``state_dict()``.
    extra: JSON-able notes, such as versions and scores. Raises DiskFull.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = safetensors.torch.save({key: value.detach().cpu().clone().contiguous() for key, value in state.items()})
    description = Description(
        format=FORMAT,
        foveate=foveate.__version__,
        task=dict(task),
        network=network,
        plan=plan,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        extra=dict(extra or {}),
    )
    text = json.dumps(description.model_dump(mode="json"), indent=2) + "\n"
    write_atomic(folder / WEIGHTS, weights)
    write_atomic(folder / DESCRIPTION, text)


def find_model(path: Path) -> Path:
    """The model folder that ``path`` means: itself, ``model/`` in a run folder, or the folder of one of its files.

    Raises InputError that says what is there in its place; a pickle is never opened.
    """
    if path.name in (DESCRIPTION, WEIGHTS) and path.is_file():
        return path.parent
    if path.is_file():
        found = "a file that may be a pickle, which can run any program" if path.suffix in PICKLES else "another file"
        raise refuse(path, "model", found, "a run or model folder", f"Give the folder that holds {DESCRIPTION}.")
    if not path.is_dir():
        raise refuse(path, "model", "nothing", "a run or model folder", "Check the path.")
    for folder in (path / "model", path):
        if (folder / DESCRIPTION).exists() or (folder / WEIGHTS).exists():
            return folder
    if (path / "config.yaml").exists():
        fix = "Training has not finished: continue it with foveate train DATA RUN --resume."
        raise refuse(path, "model", "a run without model/", f"model/{DESCRIPTION} and model/{WEIGHTS}", fix)
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    found = f"{pickles[0]}, which may be a pickle and is not opened" if pickles else "a folder without a model"
    raise refuse(path, "model", found, f"{DESCRIPTION} and {WEIGHTS}", "Give a folder that foveate train wrote.")


def load_model(folder: Path) -> SavedModel:
    """Read a model folder. Raises InputError naming the file that is missing, damaged or not of this model."""
    text = _read(folder / DESCRIPTION)
    weights = _read(folder / WEIGHTS)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refuse(folder / DESCRIPTION, "JSON", error, "a whole JSON document", RESTORE) from None
    if isinstance(data, dict) and data.get("format") != FORMAT:
        fix = "Update Foveate, or train again."
        raise refuse(folder / DESCRIPTION, "format", data.get("format"), str(FORMAT), fix)
    try:
        description = Description.model_validate(data)
    except ValidationError as error:
        raise InputError(invalid(folder / DESCRIPTION, item, RESTORE) for item in error.errors()) from None
    found = hashlib.sha256(weights).hexdigest()
    if found != description.weights_sha256:
        expected = f"{description.weights_sha256[:12]}..., as {DESCRIPTION} says"
        raise refuse(folder / WEIGHTS, "SHA-256", f"{found[:12]}... ({len(weights)} bytes)", expected, RESTORE)
    try:
        state = safetensors.torch.load(weights)
    except SafetensorError as error:
        raise refuse(folder / WEIGHTS, "content", error, "safetensors", RESTORE) from None
    broken = [key for key, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise refuse(folder / WEIGHTS, broken[0], "numbers that are not finite", "finite weights", "Train again.")
    return SavedModel(folder, description.network, description.task, description.plan, state, description.extra, found)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise refuse(path, "file", error.strerror, "a readable file", RESTORE) from None
