"""Writing a file so that whoever looks sees the old content or the new one, never a half."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from pathlib import Path

from foveate.errors import FoveateError

LONG = 230  # bytes of a name; file systems take 255, and a temporary name is longer by some
_FULL = {errno.ENOSPC: "the disk is full", errno.EFBIG: "the file size limit is reached"}
if hasattr(errno, "EDQUOT"):
    _FULL[errno.EDQUOT] = "the disk quota is used up"


class Unwritable(FoveateError):
    """A file or folder cannot be written; what was there before is untouched."""


class DiskFull(Unwritable):
    """Nothing more can be written."""


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises Unwritable where it cannot be made or takes no file."""
    fix = "Choose another folder, or see to its permissions."
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unwritable(f"{folder}: the folder cannot be made ({error.strerror}). {fix}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Unwritable(f"{folder}: no file can be written into this folder. {fix}")


def write_atomic(path: Path, *parts: bytes | memoryview | str) -> None:
    """Write ``parts`` (text as UTF-8) to ``path``: temporary file beside it, fsync, rename, fsync of the folder.

    Raises DiskFull when there is no room and Unwritable for any other fault; ``path`` then is what it was before,
    and the temporary file is gone.
    """
    content = [part.encode("utf-8") if isinstance(part, str) else part for part in parts]
    temporary = path.with_name(_temporary(path.name))
    try:
        with temporary.open("wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise unwritten(path, error, sum(memoryview(part).nbytes for part in content)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def unwritten(path: Path, error: OSError, number: int) -> Unwritable:
    """What to raise where ``number`` bytes could not be written to ``path``."""
    if error.errno in _FULL:
        size = f"{number / 2**20:.1f} MiB" if number > 2**17 else f"{number} bytes"
        return DiskFull(f"{path}: {_FULL[error.errno]}: {size} could not be written. Free some space, then try again.")
    return Unwritable(
        f"{path}: could not be written ({error.strerror}); what was there before is unchanged. "
        "Choose another folder, or see to its permissions."
    )


def _temporary(name: str) -> str:
    """What a file is called until it is whole: no longer than file systems take, where the name itself is not.

    Never twice: containers and machines that share a folder may have one process id, and threads have.
    """
    name = name if len(os.fsencode(name)) <= LONG else hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def sweep_temporary(folder: Path, pattern: str = "*") -> None:
    """Remove what a killed ``write_atomic`` left in ``folder`` for files whose name matches ``pattern``.

    Only for a folder that no other process writes to.
    """
    for left in folder.glob(f".{pattern}.*.tmp"):
        with contextlib.suppress(OSError):
            left.unlink()


def _sync_folder(folder: Path) -> None:
    # The rename itself is only on disk once the folder is; Windows cannot open folders and needs no such step.
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
