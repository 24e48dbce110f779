"""Waiting for a lock, or for a process that is about to end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from foveate.engine.lock import Lock
from foveate.errors import InputError

PATIENCE = 600.0  # seconds


@contextlib.contextmanager
def waiting_lock(path: Path, seconds: float = PATIENCE) -> Iterator[None]:
    """Hold the lock on ``path``, once whoever has it gives it back; the file is gone afterwards.

    Raises InputError naming the holder after ``seconds``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _wait(path, seconds)
    try:
        yield
    finally:
        lock.release(remove=True)


def wait_until_free(path: Path, seconds: float = PATIENCE) -> None:
    """Return once no process holds the lock on ``path``. Raises InputError naming the holder after ``seconds``."""
    if path.exists():
        _wait(path, seconds).release()


def _wait(path: Path, seconds: float) -> Lock:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return Lock(path)
        except InputError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)
