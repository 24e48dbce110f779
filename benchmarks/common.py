"""What the benchmarks share beside ``foveate.bench``: where things are in this checkout."""

from __future__ import annotations

import math
import os
from pathlib import Path

from foveate.bench.machine import commit, cores, machine
from foveate.bench.page import markdown_table
from foveate.bench.page import write_section as write_section_of
from foveate.io import read_label

__all__ = [
    "DOCS",
    "ROOT",
    "RUNS",
    "commit",
    "cores",
    "data_folder",
    "machine",
    "markdown_table",
    "volume_of",
    "write_section",
]

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "benchmarks.md"
RUNS = ROOT / "benchmarks" / "runs"


def data_folder(name: str) -> Path:
    """Where a public dataset is expected: in $FOVEATE_DATA, or in shared/data beside the checkout."""
    return Path(os.environ.get("FOVEATE_DATA", ROOT.parent / "shared" / "data")) / name


def write_section(name: str, text: str) -> None:
    """Put ``text`` into its section of docs/benchmarks.md."""
    write_section_of(name, text, DOCS)


def volume_of(label: Path) -> float:
    """mL of everything that is labelled."""
    found = read_label(label)
    return float((found.array > 0).sum()) * math.prod(found.spacing) / 1000
