"""What the benchmarks share: measuring a command, saying what it ran on, and writing a table into the docs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.engine.provenance import versions
from foveate.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "benchmarks.md"
RUNS = ROOT / "benchmarks" / "runs"
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Usage:
    """What a command took: exit code, wall and processor seconds, peak resident memory in MiB."""

    code: int
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float


def measure(command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> Usage:
    """Run a command to its end, its output appended to ``log``, and say what that one process took.

    Peak memory counts the pages of memory-mapped files that were resident, and is never less than what this process
    held itself (the kernel carries it over), which is small beside training. On an interrupt the command, which gets
    it too, is waited for: it saves its checkpoint.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("a", encoding="utf-8") as output:
        output.write(f"$ {' '.join(map(str, command))}\n")
        output.flush()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            os.wait4(process.pid, 0)
            raise
    scale = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    code = process.returncode = os.waitstatus_to_exitcode(status)
    return Usage(code, time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale)


def data_folder(name: str) -> Path:
    """Where a public dataset is expected: in $FOVEATE_DATA, or in shared/data beside the checkout."""
    return Path(os.environ.get("FOVEATE_DATA", ROOT.parent / "shared" / "data")) / name


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(threads: int) -> str:
    """Processor, cores that may be used and threads that compute."""
    return f"{versions()['processor']}, {cores()} cores, {threads} torch threads"


def commit() -> str:
    """The checkout's commit, with "+" behind it when the package differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + "+" * bool(git("status", "--porcelain", "src"))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; every column but the first is set right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_section(name: str, text: str, path: Path = DOCS) -> None:
    """Put ``text`` between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` of a page and leave the rest alone.

    Raises ValueError when the page does not hold each marker once, in that order.
    """
    page = path.read_text(encoding="utf-8")
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"{path}: {begin} and {end} must each be there once, in that order")
    before, rest = page.split(begin)
    write_atomic(path, f"{before}{begin}\n{text.strip()}\n{end}{rest.split(end)[1]}")
