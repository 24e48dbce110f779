"""One process per run folder: a lock that names its holder and dies with it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import warnings
from pathlib import Path
from typing import IO

from foveate.errors import refuse

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class Lock:
    """An exclusive lock on a file, with process id and host written inside; held until ``release`` or death."""

    def __init__(self, path: Path) -> None:
        """Raises InputError naming the process that holds the lock; warns where the file system cannot lock."""
        self.path = path
        try:
            self._file: IO[str] | None = path.open("a+", encoding="utf-8")
        except OSError as error:
            fix = "See to its permissions, or name another folder."
            raise refuse(path, "lock", error.strerror, "a file that can be written", fix) from None
        try:
            _lock_exclusively(self._file)
            if not self._is_at_path():  # its holder removed it between our two lines
                raise BlockingIOError
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            expected = "no other process in this run folder"
            raise refuse(path, "lock", holder, expected, "Wait for it, stop it, or name another folder.") from None
        except OSError as error:
            warnings.warn(
                f"{path}: this file system cannot lock ({error.strerror}): see that no other process trains here.",
                stacklevel=3,
            )
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()
        if hasattr(os, "register_at_fork"):
            # A forked worker that outlives us would otherwise keep the lock.
            os.register_at_fork(after_in_child=self._close)

    def release(self, remove: bool = False) -> None:
        """Give the lock back, and with ``remove`` its file too."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(0)
                if remove:
                    self.path.unlink()
        self._close()

    def _is_at_path(self) -> bool:
        assert self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _lock_exclusively(file: IO[str]) -> None:
    """Raises BlockingIOError when another process holds the lock, another OSError where locking does not work."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt

    file.seek(2**20)  # beyond the text, which others must be able to read
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        raise BlockingIOError(errno.EWOULDBLOCK, "locked") from error
