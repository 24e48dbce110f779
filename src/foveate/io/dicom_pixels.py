"""Pixels of DICOM files: judged by what the header promises, then decoded slice by slice (PS3.5 section 8, annex A)."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID

from foveate.errors import refuse
from foveate.io.dicom_fields import AGAIN, Fields, plain
from foveate.io.stream import RESTORE

PIXEL_DATA = 0x7FE00010
GREY = ("MONOCHROME1", "MONOCHROME2")


def judge_pixels(fields: Fields, file: BinaryIO, syntax: UID, frames: int) -> None:
    """Note what is wrong with the pixels, without reading them. file: stands where they begin, or the dataset ends."""
    at, size = file.tell(), fields.path.stat().st_size
    rows, columns, samples = fields.whole("Rows"), fields.whole("Columns"), fields.whole("SamplesPerPixel", 1)
    kind = fields.text("PhotometricInterpretation")
    if at > size:
        fields.note("length", f"{size:,} bytes (truncated)", f"at least {at:,}, as the header says", RESTORE)
    elif at == size or not rows or not columns:
        what = "no pixels" + " (truncated?)" * bool(rows)
        fields.note("PixelData", what, "an image", "Remove the file from the series, or export it again.")
    elif samples != 1 or kind not in GREY:
        found = f"{plain(kind) or 'nothing'}, {samples} value{'s' * (samples != 1)} a pixel"
        fix = "Take the series as the scanner made it, not a coloured copy of it."
        fields.note("PhotometricInterpretation", found, f"one grey value a pixel ({' or '.join(GREY)})", fix)
    else:
        _judge_data(fields, file, syntax, size, math.ceil(frames * rows * columns * fields.whole("BitsAllocated") / 8))


def stored_values(fields: Fields) -> tuple[int, int, str]:
    """Least and largest value that can be stored, and the name of the type."""
    allocated, stored = fields.whole("BitsAllocated"), fields.whole("BitsStored")
    high, signed = fields.whole("HighBit", stored - 1), fields.whole("PixelRepresentation")
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or high != stored - 1 or signed not in (0, 1):
        found = f"{allocated} allocated, {stored} stored, high bit {high}, PixelRepresentation {signed}"
        expected = "8, 16 or 32 allocated, no more of them stored, the high bit one less, representation 0 or 1"
        fields.note("BitsStored", found, expected, AGAIN)
        return 0, 0, ""
    if signed:
        return -(1 << (stored - 1)), (1 << (stored - 1)) - 1, f"int{allocated}"
    return 0, (1 << stored) - 1, f"uint{allocated}"


def decode(path: Path, index: int | None, shape: tuple[int, int], low: int, high: int) -> np.ndarray:
    """Stored values of one frame ``[rows, columns]``. Raises InputError, also for values beyond ``low`` or ``high``."""
    try:
        # Bits beyond BitsStored must agree with the value; pydicom would drop them without a word.
        values = pixel_array(path, index=index, raw=True, correct_unused_bits=False)
    except MemoryError:
        raise
    except Exception as error:  # every decoder has errors of its own
        found = f"pixels that cannot be decoded ({type(error).__name__})"
        raise refuse(path, "PixelData", found, "pixels as the transfer syntax says", RESTORE) from None
    if values.shape != shape:
        expected = f"{shape[0]} rows and {shape[1]} columns, as the header says"
        raise refuse(path, "PixelData", " x ".join(map(str, values.shape)), expected, RESTORE)
    least, most = int(values.min()), int(values.max())
    if least < low or most > high:
        expected = f"{low} to {high}, all that BitsStored and PixelRepresentation allow"
        fix = "The header does not fit the pixels: " + AGAIN[0].lower() + AGAIN[1:]
        raise refuse(path, "BitsStored", f"values from {least} to {most}", expected, fix)
    return values


def _judge_data(fields: Fields, file: BinaryIO, syntax: UID, size: int, needed: int) -> None:
    """Whether all of the pixels are there and can be decoded. needed: bytes of them uncompressed."""
    start = file.tell()
    head = file.read(12)
    try:
        form = f"{'<' if syntax.is_little_endian else '>'}HH{'' if syntax.is_implicit_VR else 'xxxx'}L"
        group, element, length = struct.unpack(form, head[: struct.calcsize(form)])
    except (struct.error, ValueError):
        fields.note("PixelData", "nothing that can be read", "an image", RESTORE)
        return
    begin = start + struct.calcsize(form)
    if group << 16 | element != PIXEL_DATA:
        fix = "Convert the map with a tool that reads such objects."
        fields.note("PixelData", "real numbers", "whole numbers with a slope and an intercept", fix)
    elif syntax.is_compressed:
        if not _ends(file, begin, size):
            fields.note("PixelData", "compressed pixels without an end (truncated)", "complete fragments", RESTORE)
    elif length < needed:
        expected = f"{needed:,} bytes, for the rows, columns and frames that the header names"
        fields.note("PixelData", f"{length:,} bytes", expected, RESTORE)
    elif begin + length > size:
        fields.note("PixelData", f"{size - begin:,} bytes (truncated)", f"{length:,} bytes, as it says", RESTORE)
    _judge_syntax(fields, syntax)


def _judge_syntax(fields: Fields, syntax: UID) -> None:
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        fix = "Write the series again uncompressed, for instance with DCMTK's dcmconv or dcmdjpeg."
        fields.note("transfer syntax", plain(syntax.name), "one that pydicom decodes", fix)
        return
    if not syntax.is_compressed or decoder.is_available:
        return
    # "pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-openjpeg>=2.0"
    packages = [line.partition(" - requires ")[2] for line in decoder.missing_dependencies]
    wanted = next((text for text in packages if text.startswith("pylibjpeg")), packages[0])
    install = " ".join(f"'{package}'" for package in wanted.split(" and "))
    fix = f"pip install {install}, or write the series again uncompressed."
    expected = "a decoder: " + ", or ".join(packages)
    fields.note("transfer syntax", f"{plain(syntax.name)}, and no decoder for it", expected, fix)


def _ends(file: BinaryIO, at: int, size: int) -> bool:
    """Whether the fragments of compressed pixels from ``at`` on end before the file does."""
    while at + 8 <= size:
        file.seek(at)
        group, element, length = struct.unpack("<HHL", file.read(8))
        if (group, element) == (0xFFFE, 0xE0DD):
            return True
        if (group, element) != (0xFFFE, 0xE000):
            return False
        at += 8 + length
    return False
