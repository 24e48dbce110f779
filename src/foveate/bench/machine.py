"""What a benchmark ran on, and which state of the code it ran."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from foveate import __version__
from foveate.engine.provenance import versions

PACKAGE = Path(__file__).resolve().parents[1]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(threads: int) -> str:
    """Processor, cores that may be used and threads that compute."""
    return f"{versions()['processor']}, {cores()} cores, {threads} torch threads"


def commit() -> str:
    """The checkout's commit, with "+" behind it when the package differs from it; without a checkout the version."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:  # no git
            return ""
        return done.stdout.strip()

    if git("ls-files", "__init__.py") != "__init__.py":  # installed, perhaps below some other repository
        return __version__
    return git("rev-parse", "--short=10", "HEAD") + "+" * bool(git("status", "--porcelain", "."))
