"""What a command takes: wall and processor seconds and peak memory, known even when this process is killed."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from foveate.files import write_atomic

NOTED_EVERY = 10.0  # seconds
_TICK = 0.1  # seconds
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Usage:
    """Wall and processor seconds, and peak resident memory in MiB; ``a + b`` is that of one after the other."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss_mb: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_rss_mb, other.peak_rss_mb),
        )


def read_usage(path: Path) -> Usage:
    """What earlier parts of a command took; nothing where there is no such file."""
    return Usage(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Usage()


def measure(
    command: Sequence[str | Path],
    log: Path,
    env: Mapping[str, str] | None = None,
    note: Path | None = None,
) -> tuple[int, Usage]:
    """Run a command to its end, its output appended to ``log``; its exit code and what it took.

    note: file to which usage is added up, now and then and at the end, so that a command that is continued after a
    kill knows what its earlier parts took (see ``read_usage``).

    Processor time counts the processes that the command waited for, peak memory is that of the largest one, counts
    resident pages of memory-mapped files, and is never less than what this process held itself (the kernel carries it
    over), which is small beside training. On an interrupt the command, which gets it too, is waited for: it saves its
    checkpoint. When this process dies, Linux asks the command to stop and save.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    before = read_usage(note) if note else Usage()
    started = time.monotonic()
    with log.open("a", encoding="utf-8") as output:
        output.write(f"$ {' '.join(map(str, command))}\n")
        output.flush()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            preexec_fn=END_WITH_PARENT,
        )
        try:
            code, used = _watch(process, started, lambda usage: _note(note, before + usage))
        except KeyboardInterrupt:
            _, used = _watch(process, started, lambda usage: None)
            _note(note, before + used)
            raise
    _note(note, before + used)
    return code, before + used


def _watch(process: subprocess.Popen[bytes], started: float, note: Callable[[Usage], None]) -> tuple[int, Usage]:
    """Wait for the end; meanwhile tell ``note`` what was used so far."""
    noted, peak = started, 0.0
    while True:
        pid, status, spent = os.wait4(process.pid, os.WNOHANG)
        seconds = time.monotonic() - started
        if pid:
            scale = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
            code = process.returncode = os.waitstatus_to_exitcode(status)
            return code, Usage(seconds, spent.ru_utime + spent.ru_stime, spent.ru_maxrss / scale)
        if time.monotonic() - noted >= NOTED_EVERY:
            noted = time.monotonic()
            running = psutil.Process(process.pid)
            times = running.cpu_times()
            peak = max(peak, running.memory_info().rss / 2**20)
            note(Usage(seconds, times.user + times.system, peak))
        time.sleep(_TICK)


def _note(path: Path | None, usage: Usage) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(asdict(usage)) + "\n")


def _end_with_parent() -> None:
    # Otherwise a training goes on unseen after its benchmark was killed, and holds its run folder's lock.
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


END_WITH_PARENT = _end_with_parent if _LIBC else None
"""``preexec_fn`` of a command that is to end with this process: Linux asks it to stop. None elsewhere."""
