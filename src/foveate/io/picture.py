"""Pictures (PNG, JPEG, TIFF), grey and RGB, as arrays ``[C, rows, columns]``.

What is done with the less usual kinds:

- 16-bit and floating-point grey keep their values. RGB of 16 bits is read with 8, with a warning.
- A palette image becomes RGB; a palette *label* keeps its indices.
- An alpha channel is dropped, with a warning, when it is opaque everywhere, and refused otherwise.
- CMYK, several pages and animations are refused.
- A label in a JPEG, or in a TIFF that JPEG compresses, is refused: its values are near the class numbers only.
- The EXIF orientation is applied and recorded, so that arrays lie as the picture is shown.
- More than 178,956,970 pixels (Pillow's own bound) are refused by the header, before anything is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from foveate.errors import InputError, Problem, Severity, refuse
from foveate.io.nifti import Inspected, not_finite, whole_numbers
from foveate.io.stream import RESTORE, fits_memory, open_stream, what_is
from foveate.io.volume import Volume

MAX_PIXELS = 178_956_970
_JPEG_IN_TIFF = (6, 7)  # its compression tag
_ORIENTATION = 274  # EXIF and TIFF tag
_TURN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def inspect_picture(path: Path) -> Inspected:
    """A picture as float32 ``[1 or 3, H, W]``, identity affine (unit: pixel), and every problem of the file."""
    try:
        pixels, problems = _read(path, label=False)
    except InputError as error:
        return None, error.problems
    array = pixels.astype(np.float32)
    bad = not_finite(path, array)
    if bad:
        return None, [*problems, bad]
    array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    return _volume(path, np.ascontiguousarray(array), pixels.dtype.name), problems


def inspect_picture_label(path: Path) -> Inspected:
    """A label picture as integers ``[1, H, W]``, and every problem of the file."""
    try:
        pixels, problems = _read(path, label=True)
    except InputError as error:
        return None, error.problems
    if pixels.ndim == 3:
        if not (pixels == pixels[..., :1]).all():
            fix = "Save the label as a grey or palette PNG whose values are the class numbers."
            problems.append(Problem(str(path), "pixels", "a colour picture", "one class number per pixel", fix))
            return None, problems
        pixels = pixels[..., 0]
        note = "The channels are equal; the first is used."
        problems.append(Problem(str(path), "pixels", "three channels", "one", note, "warn"))
    array, found = whole_numbers(path, pixels)
    problems += found
    if array is None:
        return None, problems
    return _volume(path, np.ascontiguousarray(array[None]), pixels.dtype.name), problems


def picture_label_bytes(labels: np.ndarray) -> bytes:
    """An 8-bit grey PNG whose values are the label values."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def picture_map_bytes(values: np.ndarray) -> bytes:
    """A float32 TIFF of numbers ``[H, W]``."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.ascontiguousarray(values, dtype=np.float32))
    return buffer.getvalue()


def _volume(path: Path, array: np.ndarray, stored: str) -> Volume:
    return Volume(array, np.eye(4), path, {"format": "picture", "stored": stored})


class _Notes(list[Problem]):
    """The problems of one file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = str(path)

    def note(self, field: str, found: str, expected: str, fix: str, severity: Severity = "warn") -> None:
        self.append(Problem(self._file, field, found, expected, fix, severity))


def _read(path: Path, *, label: bool) -> tuple[np.ndarray, _Notes]:
    """Pixels ``[H, W]`` or ``[H, W, 3]`` in their stored type, turned as EXIF says. Raises InputError."""
    with open_stream(path, gzipped=False) as stream:
        head = stream.read(540)
    kind = what_is(head)
    notes = _Notes(path)
    try:
        if kind == "a TIFF picture":
            pixels = _read_tiff(path, label, notes)
        elif kind in ("a PNG picture", "a JPEG picture"):
            if label and kind == "a JPEG picture":
                raise _lossy(path, kind)
            pixels, orientation = _read_pillow(path, head, label, notes)
            pixels = _upright(pixels, orientation, notes)
        else:
            raise refuse(path, "content", kind, "a PNG, JPEG or TIFF picture", RESTORE)
    except Image.DecompressionBombError:
        raise _too_large(path, f"more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise refuse(path, "content", f"{kind} that cannot be read", "a whole picture", RESTORE) from None
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # Decoders meet damage with whatever they stumble over; a file that vanished was named when it was opened.
        found = f"damaged picture data ({' '.join(str(error).split())[:160]})"
        raise refuse(path, "pixels", found, "a whole picture", RESTORE) from None
    if kind.split()[1].lower().replace("jpeg", "jpg")[:3] != path.suffix.lower().lstrip(".").replace("jpeg", "jpg")[:3]:
        notes.note("name", f"{path.suffix} on {kind}", "the suffix that fits", "It is read as what it is.")
    return pixels, notes


def _upright(pixels: np.ndarray, orientation: int, notes: _Notes, *, done: bool = False) -> np.ndarray:
    """Pixels turned as the EXIF orientation says (unless the decoder has ``done`` it), with a warning."""
    if orientation not in _TURN:
        return pixels
    found = f"orientation {orientation}: the pixels are stored turned or mirrored"
    fix = "The picture is turned upright, as viewers show it; its label must lie the same way."
    notes.note("EXIF orientation", found, "orientation 1", fix)
    return pixels if done else _TURN[orientation](pixels)


def _too_large(path: Path, found: str) -> InputError:
    fix = "Cut the picture into tiles or scale it down."
    return refuse(path, "size", found, f"at most {MAX_PIXELS:,} pixels", fix)


def _check_size(path: Path, width: int, height: int, bytes_per_pixel: int) -> None:
    if width < 1 or height < 1:
        raise refuse(path, "size", f"{width} x {height}", "at least one pixel", RESTORE)
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"{width:,} x {height:,} = {width * height:,} pixels")
    fits_memory(path, width * height * bytes_per_pixel, (height, width))


def _read_pillow(path: Path, head: bytes, label: bool, notes: _Notes) -> tuple[np.ndarray, int]:
    """PNG and JPEG. Returns pixels and EXIF orientation."""
    with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
        _check_size(path, *image.size, 5 * len(image.getbands()))
        frames = int(getattr(image, "n_frames", 1))
        if frames > 1:
            raise refuse(path, "frames", frames, "one picture", "Save the frames as separate files.")
        image.load()
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        mode = image.mode
        if head.startswith(b"\x89PNG") and head[24] == 16 and mode in ("RGB", "RGBA", "LA"):
            _note_depth(notes)
        if mode == "P" and label:
            return np.asarray(image), orientation
        if mode == "1":
            return np.asarray(image).astype(np.uint8), orientation
        if mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
            return _without_alpha(path, image, notes), orientation
        if mode == "P":
            return np.asarray(image.convert("RGB")), orientation
        if mode in ("L", "RGB", "F") or mode.startswith("I"):
            return np.asarray(image), orientation
    raise _colours(path, mode)


def _note_depth(notes: _Notes) -> None:
    notes.note("bit depth", "16 bits per colour", "8 bits", "The picture is read with 8 bits per colour.")


def _lossy(path: Path, found: str) -> InputError:
    found = f"{found}, whose values are not the class numbers any more"
    fix = "Save the mask as PNG where it was drawn; a JPEG that is converted stays wrong."
    return refuse(path, "label", found, "a picture that keeps every value, as PNG does", fix)


def _colours(path: Path, found: str) -> InputError:
    return refuse(path, "colours", found, "grey or RGB", "Convert the picture to grey or RGB.")


def _without_alpha(path: Path, image: Image.Image, notes: _Notes) -> np.ndarray:
    grey = image.mode in ("L", "LA", "La", "I;16", "I")
    if image.mode.startswith("I"):
        raise refuse(path, "alpha", "a transparent grey value", "no transparency", "Save it without transparency.")
    pixels = np.asarray(image.convert("LA" if grey else "RGBA"))
    return _drop_alpha(path, pixels, notes)


def _drop_alpha(path: Path, pixels: np.ndarray, notes: _Notes) -> np.ndarray:
    """Pixels ``[H, W, 2 or 4]`` without their last channel, which must be opaque everywhere."""
    opaque = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
    through = int((pixels[..., -1] != opaque).sum())
    if through:
        found = f"{through:,} pixels that are not opaque"
        raise refuse(path, "alpha", found, "an opaque picture", "Save it without transparency on a chosen background.")
    notes.note("alpha", "an alpha channel, opaque everywhere", "none", "It is dropped.")
    return pixels[..., 0] if pixels.shape[-1] == 2 else pixels[..., :3]


def _read_tiff(path: Path, label: bool, notes: _Notes) -> np.ndarray:
    """TIFF by tifffile; by Pillow where only that has the decoder (LZW, JPEG inside TIFF)."""
    with tifffile.TiffFile(path) as tiff:
        pages = len(tiff.pages)
        if pages != 1:
            raise refuse(path, "pages", str(pages), "one page", "Save each page as a file of its own.")
        page: Any = tiff.pages[0]
        _check_size(path, page.imagewidth, page.imagelength, page.samplesperpixel * (page.bitspersample // 8 + 5))
        if page.imagedepth > 1:
            raise refuse(path, "depth", str(page.imagedepth), "a flat picture", "Save volumes as NIfTI.")
        if label and page.compression in _JPEG_IN_TIFF:
            raise _lossy(path, "a TIFF with JPEG compression")
        photometric = page.photometric.name if page.photometric is not None else "unknown"
        if photometric not in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "YCBCR"):
            raise _colours(path, photometric)
        tag = page.tags.get(_ORIENTATION)
        orientation = int(tag.value) if tag else 1
        try:
            pixels = np.asarray(page.asarray())
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            # Pillow turns TIFF pictures itself while it decodes them.
            return _upright(_read_pillow(path, b"", label, notes)[0], orientation, notes, done=True)
        if pixels.ndim == 3 and page.planarconfig is not None and page.planarconfig.name == "SEPARATE":
            pixels = np.moveaxis(pixels, 0, -1)
        if photometric == "PALETTE" and not label:
            pixels = np.moveaxis(page.colormap[:, pixels] >> 8, 0, -1).astype(np.uint8)
        if photometric == "MINISWHITE" and not label:
            pixels = ~pixels if pixels.dtype.kind in "bu" else pixels.max() - pixels
            notes.note("photometric", "0 is white", "0 is black", "The values are inverted.")
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if pixels.dtype.kind == "c" or pixels.ndim not in (2, 3):
        raise refuse(path, "pixels", f"{pixels.dtype.name} {pixels.shape}", "grey or RGB", "Convert the picture.")
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 4):
        pixels = _drop_alpha(path, pixels, notes)
    if pixels.ndim == 3 and pixels.shape[-1] != 3:
        raise refuse(path, "channels", str(pixels.shape[-1]), "1 (grey) or 3 (RGB)", "Save channels as separate files.")
    # Colours are told from 0 to 255 all over; values that do not leave that range are of 8 bits in a wider type.
    if pixels.ndim == 3 and pixels.dtype == np.uint16 and not label and pixels.max() > 255:
        _note_depth(notes)
        pixels = (pixels >> 8).astype(np.uint8)
    return _upright(pixels, orientation, notes)
