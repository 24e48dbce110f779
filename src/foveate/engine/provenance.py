"""What made a run, and whether a continuation is made of the same."""

from __future__ import annotations

import contextlib
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foveate.errors import Problem

# What may differ between a run and its continuation: none of it changes what is to be learnt.
FREE_ON_RESUME = frozenset({"device", "checkpoint_seconds", "cache"})
_PACKAGES = ("foveate", "torch", "numpy", "scipy", "nibabel", "pillow", "lightning-fabric", "safetensors")
_ADVICE = "Continue with what the run was started with, or train in another folder."
_BACK = "Put the files back as they were, or train in another folder."
_LABELLED = "Give --labelled as when the run was started, or put the label files back; else train in another folder."
_NAMED = 8


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, the platform and the processor."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "processor": _processor()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def command_line() -> list[str]:
    """The command as typed, without the path of the installation."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: nan and inf become None, numpy and torch scalars numbers, paths text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def setting_differences(file: Path, before: Any, now: Any) -> list[Problem]:
    """One problem per key of a configuration or plan that differs; keys that are free on resume are left out."""
    old, new = _flat(plain(before)), _flat(plain(now))
    keys = [key for key in [*old, *(key for key in new if key not in old)] if key not in FREE_ON_RESUME]
    return [
        Problem(str(file), key, _show(new, key), f"{_show(old, key)}, as when the run was started", _ADVICE)
        for key in keys
        if _show(old, key) != _show(new, key)
    ]


def data_differences(file: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Problem]:
    """A problem each for cases that were added, removed or changed; SHA-256 per part of each case are compared.

    Where a label was known to one side alone, the file of ``--labelled``, which no run keeps, may be what differs.
    """
    changed, fixes = [], {"changed": _BACK}
    for case in sorted(before.keys() & now.keys()):
        old, new = plain(before[case]), plain(now[case])
        parts = [part for part in sorted({**old, **new}) if old.get(part) != new.get(part)]
        if parts:
            changed.append(f"{case} ({', '.join(parts)})")
        if "label" in parts and None in (old.get("label"), new.get("label")):
            fixes["changed"] = _LABELLED
    groups = {
        "added": sorted(now.keys() - before.keys()),
        "removed": sorted(before.keys() - now.keys()),
        "changed": changed,
    }
    return [
        Problem(
            str(file),
            "data",
            f"{len(cases)} {'case' if len(cases) == 1 else 'cases'} {what}: {_some(cases)}",
            "the dataset that the run was started with",
            fixes.get(what, _BACK),
        )
        for what, cases in groups.items()
        if cases
    ]


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {key: leaf for name in value for key, leaf in _flat(value[name], f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value}


def _show(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "nothing"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
