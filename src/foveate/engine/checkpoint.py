"""Checkpoints without pickle: a tree of tensors and plain values in one safetensors file that proves itself whole."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.files import DiskFull, sweep_temporary, write_atomic

_FORMAT = "foveate-tree-1"
_NAME = re.compile(r"step-(\d{9,})\.safetensors")


class DamagedFile(FoveateError):
    """The file is not what was once written: truncated, altered, or never a file of ours."""


def save_tree(path: Path, tree: Any) -> None:
    """Write nested dicts, lists and tuples of tensors, ints, floats, strings, bools and None to one file, atomically.

    Tensors lie in the file under their path in the tree ("model/stem.weight"), so that any safetensors reader
    can use them; structure and plain values are JSON in its metadata. Dict keys may be strings or ints.

    Raises TypeError naming the place of a value of any other type, DiskFull when there is no room.
    """
    collected = _Tensors()
    structure = json.dumps(_describe(tree, "", collected), separators=(",", ":"))
    metadata = {"format": _FORMAT, "tree": structure, "sha256": _digest(structure, collected.by_name)}
    write_atomic(path, safetensors.torch.save(collected.by_name, metadata))


def load_tree(path: Path) -> Any:
    """What ``save_tree`` wrote, with every tensor on the CPU and every value of its former type.

    Raises DamagedFile when the content is not exactly what was written; nothing in the file is ever executed.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            # Cloned: else the tensors would stay mapped to a file that may be replaced while they are in use.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError) as error:
        raise DamagedFile(f"{path}: damaged, or not a checkpoint: {error}") from None
    if metadata.get("format") != _FORMAT:
        found = metadata.get("format", "no format mark")
        raise DamagedFile(f"{path}: format: found {found}; expected {_FORMAT}")
    if _digest(metadata.get("tree", ""), tensors) != metadata.get("sha256"):
        raise DamagedFile(f"{path}: damaged: its content does not match its SHA-256")
    return _rebuild(json.loads(metadata["tree"]), tensors)


class Checkpoints:
    """The newest ``keep`` checkpoints of a run in ``folder``; one process writes, any may read."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps for which there is a file, oldest first."""
        return sorted(self._files())

    def save(self, step: int, tree: Any) -> Path:
        """Add the checkpoint of ``step``, then drop all but the newest ``keep``.

        Raises DiskFull, naming the checkpoint that is still good, when there is no room.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep_temporary(self.folder, "step-*")
        path = self.folder / f"step-{step:09d}.safetensors"
        try:
            save_tree(path, {"step": step, "tree": tree})
        except DiskFull as error:
            kept = self._files()
            good = (
                f"The last good checkpoint, {kept[max(kept)]}, is intact: --resume continues from it." if kept else ""
            )
            raise DiskFull(f"{error} {good or 'No checkpoint had been saved before.'}") from error
        files = self._files()
        for later in [other for other in files if other > step]:
            # Only a damaged checkpoint can be newer than the one that is saved now: out of the way, not away.
            files.pop(later).rename(self.folder / f"step-{later:09d}.damaged")
        for old in sorted(files)[: -self.keep]:
            files[old].unlink()
        return path

    def latest(self) -> tuple[int, Any] | None:
        """Step and tree of the newest checkpoint that is whole; None when nothing was saved yet.

        A damaged one is passed over with a warning. Raises DamagedFile when there are files but none is whole.
        """
        reasons = []
        for step, path in sorted(self._files().items(), reverse=True):
            try:
                content = load_tree(path)
                if not isinstance(content, dict) or content.get("step") != step:
                    raise DamagedFile(f"{path}: holds another step than its name says")
            except (DamagedFile, OSError) as error:
                reasons.append(str(error))
                continue
            for reason in reasons:
                warnings.warn(f"{reason}. Falling back to {path.name}.", stacklevel=2)
            return step, content["tree"]
        if reasons:
            advice = "Restore one from a backup, or train again in another folder."
            raise DamagedFile("\n".join([*reasons, f"No checkpoint in {self.folder} is whole. {advice}"]))
        return None

    def _files(self) -> dict[int, Path]:
        # Files of any other name, a .pt among them, are not ours and are never opened.
        found = ((_NAME.fullmatch(path.name), path) for path in self.folder.glob("step-*"))
        return {int(match[1]): path for match, path in found if match}


def _describe(value: Any, place: str, tensors: _Tensors) -> Any:
    """JSON that stands for ``value``: plain JSON where that is exact, else a list that starts with its kind."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return ["float", float(value).hex()]  # exact for every float, and the only way to write nan and inf
    if isinstance(value, Tensor):
        return ["tensor", tensors.add(value, place)]
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, *(_describe(item, f"{place}/{i}", tensors) for i, item in enumerate(value))]
    if isinstance(value, dict):
        pairs = []
        for key, item in value.items():
            if isinstance(key, bool) or not isinstance(key, (str, int)):
                raise TypeError(f"{place or 'tree'}: key {key!r} is neither a string nor an int")
            pairs.append([key, _describe(item, f"{place}/{key}", tensors)])
        return ["dict", *pairs]
    raise TypeError(f"{place or 'tree'}: {type(value).__name__} cannot be stored: only tensors and plain values can")


class _Tensors:
    """The tensors of a tree under names that differ, in memory that is not shared."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}
        self._memory: set[int] = set()

    def add(self, tensor: Tensor, place: str) -> str:
        name = base = place.lstrip("/") or "value"
        number = 1
        while name in self.by_name or name == "__metadata__":
            number += 1
            name = f"{base}#{number}"
        data = tensor.detach().to("cpu").contiguous()
        # safetensors refuses tensors that share memory, as those of a teacher and its student may.
        if data.untyped_storage().data_ptr() in self._memory:
            data = data.clone()
        self._memory.add(data.untyped_storage().data_ptr())
        self.by_name[name] = data
        return name


def _rebuild(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, *rest = value
    if kind == "float":
        return float.fromhex(rest[0])
    if kind == "tensor":
        return tensors[rest[0]]
    if kind == "dict":
        return {key: _rebuild(item, tensors) for key, item in rest}
    items = [_rebuild(item, tensors) for item in rest]
    return items if kind == "list" else tuple(items)


def _digest(structure: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the structure and over name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256(structure.encode("utf-8"))
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
