"""Bytes of a plain or gzip file, read to the very end, so that damage is seen and a gzip bomb is not unpacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import psutil
from isal import isal_zlib

from foveate.errors import InputError, Problem, refuse

CHUNK = 1 << 18
MAX_TRAILING = 1 << 24  # bytes after the data beyond which a file is not merely untidy
RESTORE = "Copy the file again from where it came, or export it again."

_DAMAGED: Any = isal_zlib.IsalError  # its stub calls it an instance
_SIGNATURES = (
    (b"\x1f\x8b", "a gzip file"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"PK\x03\x04", "a zip archive"),
    (b"%PDF", "a PDF document"),
    (b"NRRD", "an NRRD image"),
    (b"ObjectType", "a MetaImage header"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"version https://git-lfs", "a Git LFS pointer in place of the data"),
)


def what_is(head: bytes) -> str:
    """What a file really is, told by its first bytes (132 or more are needed for DICOM, 348 for NIfTI)."""
    if not head:
        return "an empty file (0 bytes)"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2"):
        return "an uncompressed NIfTI file"
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:9].lower() == b"<!doctype" or start[:5].lower() == b"<html":
        return "an HTML page (a login or error page saved in place of the file?)"
    if not any(head):
        return "nothing but zero bytes"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head[:256]):
        return f"text that begins with {head[:40].decode('ascii')!r}"
    return f"data that begins with the bytes {head[:8].hex(' ')}"


def fits_memory(path: Path, needed: int, shape: tuple[int, ...]) -> None:
    """Raise InputError when ``needed`` bytes are more than this machine has to spare now; nothing is allocated."""
    available = psutil.virtual_memory().available
    if needed > 0.8 * available:
        size = " x ".join(map(str, shape))
        raise refuse(
            path,
            "size",
            f"{size}, which needs {needed / 2**30:,.1f} GiB of memory",
            f"at most {0.8 * available / 2**30:,.1f} GiB, 80% of what is free now",
            "If the size is right, crop or resample the image or use a larger machine; if not, the header is damaged.",
        )


def unreadable(path: Path, error: OSError) -> InputError:
    """A file that vanished or may not be read: its case is set aside, the rest goes on."""
    return InputError(
        Problem(
            str(path),
            "file",
            error.strerror or type(error).__name__,
            "a file that can be read",
            "The case is set aside. Check that the file is there and that you may read it.",
            severity="aside",
        )
    )


@contextmanager
def open_stream(path: Path, *, gzipped: bool) -> Iterator[ByteStream]:
    """The file's bytes, unpacked when ``gzipped``. An OSError comes out as InputError of severity ``aside``."""
    try:
        with path.open("rb") as file:
            yield ByteStream(path, file, gzipped)
    except OSError as error:
        raise unreadable(path, error) from error


class ByteStream:
    """Reads forward only. Every method raises InputError when the gzip container is damaged."""

    def __init__(self, path: Path, file: BinaryIO, gzipped: bool) -> None:
        self._path = path
        self._file = file
        self._unpack: Any = isal_zlib.decompressobj(wbits=31) if gzipped else None
        self._pending = b""  # compressed bytes that were read but not unpacked yet
        self._garbage = 0  # bytes behind the last gzip member

    def read(self, count: int) -> bytes:
        """``count`` bytes, fewer only at the end of the file."""
        buffer = bytearray(count)
        return bytes(buffer[: self.fill(buffer)])

    def fill(self, buffer: bytearray | memoryview) -> int:
        """Read into ``buffer`` until it is full or the file ends; returns the number of bytes read."""
        view = memoryview(buffer)
        filled = 0
        while filled < len(view):
            piece = self._next(len(view) - filled)
            if not piece:
                break
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    def drain(self) -> int:
        """Read what is left, checksum included, and return how many bytes it was; more than 16 MiB are refused."""
        trailing = 0
        while piece := self._next(CHUNK):
            trailing += len(piece)
            if trailing > MAX_TRAILING:
                raise refuse(
                    self._path,
                    "length",
                    f"more than {MAX_TRAILING >> 20} MiB beyond what the header declares; unpacking was stopped",
                    "no data after the image",
                    "The file may be a gzip bomb or has a damaged header. Do not use it; export the image again.",
                )
        return trailing + self._garbage

    def _next(self, limit: int) -> bytes:
        """Some bytes, at most ``limit``; empty only at the end."""
        if self._unpack is None:
            return self._file.read(min(limit, 1 << 24))
        try:
            while True:
                if self._unpack.eof and not self._next_member():
                    return b""
                packed = self._pending or self._unpack.unconsumed_tail or self._file.read(CHUNK)
                self._pending = b""
                piece = self._unpack.decompress(packed, limit)
                if piece:
                    return bytes(piece)
                if not packed and not self._unpack.eof:
                    raise refuse(
                        self._path,
                        "gzip",
                        "the file ends in the middle of the compressed data (truncated)",
                        "a complete gzip file",
                        RESTORE,
                    )
        except _DAMAGED as error:
            raise refuse(self._path, "gzip", _gzip_fault(error), "a gzip file without errors", RESTORE) from None

    def _next_member(self) -> bool:
        """Go on with the next member of a gzip file that has several; False at the end of the last."""
        rest = self._unpack.unused_data or self._file.read(CHUNK)
        if rest.startswith(b"\x1f\x8b"):
            self._unpack = isal_zlib.decompressobj(wbits=31)
            self._pending = rest
            return True
        while rest:
            self._garbage += len(rest) if rest.strip(b"\0") else 0  # padding with zeros is allowed
            rest = self._file.read(CHUNK)
        return False


def _gzip_fault(error: Exception) -> str:
    text = str(error)
    if "checksum" in text.lower():
        return "a wrong checksum (CRC): the data were damaged after they were written"
    return f"damaged compressed data ({text})"
