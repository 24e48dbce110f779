"""A picture with boxes, their classes and scores drawn on it, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from foveate.boxes import SURE
from foveate.figures import PALETTE
from foveate.io.volume import Volume
from foveate.tasks import Boxes

CAPTION = f"boxes of a score of {SURE:g} and more"
SIDE = 900  # pixels of the longer side of a small image's picture
TEXT = 15  # pixels


def draw_boxes(volume: Volume, found: Boxes, names: Sequence[str], known: np.ndarray | None = None) -> bytes:
    """A picture whole; of a volume the plane across its last axis through the middle of the surest box, with the boxes
    that reach it. Each box of a score of SURE has its class's colour, and class and score stand on it; the classes
    stand below. known: true boxes ``[N, 2 n]``, drawn in white beneath the others."""
    shown = found.scores >= SURE
    boxes, classes, scores = found.boxes[shown].numpy(), found.classes[shown].tolist(), found.scores[shown].tolist()
    true = np.empty((0, 2 * volume.dims)) if known is None else np.asarray(known, float)
    array = volume.array
    steps = list(volume.spacing)
    if volume.dims == 3:
        depth = array.shape[3]
        first = next((some[0] for some in (boxes, true) if len(some)), None)
        plane = depth // 2 if first is None else int(min(max((first[2] + first[5]) / 2, 0), depth - 1))
        here = _reached(boxes, plane)
        classes, scores = [classes[i] for i in here], [scores[i] for i in here]
        # Rows of the picture are the second axis: it is shown as the scanner's columns run.
        boxes, true = (some[_reached(some, plane)][:, [1, 0, 4, 3]] for some in (boxes, true))
        array, steps = array[..., plane].transpose(0, 2, 1), [steps[1], steps[0]]
    height, width = array.shape[1:]
    scale = max(1.0, SIDE / max(height * steps[0], width * steps[1]) * min(steps))
    factors = np.array(steps) / min(steps) * scale
    size = (round(width * factors[1]), round(height * factors[0]))
    picture = Image.fromarray(grey_or_colour(array)).resize(size, Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (size[0], size[1] + 2 * TEXT), "#101317")
    canvas.paste(picture, (0, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=TEXT)
    for box in true:
        top, left, bottom, right = box * np.tile(factors, 2)
        draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), outline="#000000", width=4)
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="#ffffff", width=2)
    labels = []
    for box, kind, score in zip(boxes, classes, scores, strict=True):
        top, left, bottom, right = box * np.tile(factors, 2)
        colour = PALETTE[kind % len(PALETTE)]
        draw.rectangle((left, top, right, bottom), outline="#000000", width=4)
        # A box of less than two pixels has nothing inside its outline, and Pillow draws no corner before another.
        draw.rectangle((left + 1, top + 1, max(left, right - 2) + 1, max(top, bottom - 2) + 1), outline=colour, width=2)
        labels.append((left, top, f"{names[kind]} {score:.2f}", colour))
    taken: list[tuple[float, float, float, float]] = []
    for left, top, text, colour in labels:  # after all boxes, so that none is drawn through a word
        place = _free(draw, font, left, top, text, canvas.size, taken)
        taken.append(place)
        draw.rectangle(place, fill=colour)
        draw.text((place[0] + 2, place[1] + 1), text, fill="#000000", font=font)
    legend = [(PALETTE[kind % len(PALETTE)], f"{name}: {classes.count(kind)}") for kind, name in enumerate(names)]
    if known is not None:
        legend.append(("#ffffff", f"known: {len(true)}"))
    x = 4.0
    for colour, text in legend:
        draw.rectangle((x, size[1] + 8, x + 14, size[1] + 22), fill=colour)
        draw.text((x + 20, size[1] + 6), text, fill="#ffffff", font=font)
        x += 40 + draw.textlength(text, font=font)
    out = io.BytesIO()
    canvas.save(out, "PNG")
    return out.getvalue()


def _reached(boxes: np.ndarray, plane: int) -> list[int]:
    """The boxes of a volume that the middle of a plane across its last axis lies in."""
    return [number for number, box in enumerate(boxes) if box[2] <= plane + 0.5 < box[5]]


def grey_or_colour(array: np.ndarray) -> np.ndarray:
    """``[C, rows, columns]`` -> uint8 ``[rows, columns, 3]``: three channels of bytes as they are; three others, or the
    first of those that are there, between their percentiles 0.5 and 99.5."""
    if len(array) == 3 and array.min() >= 0 and 1 < array.max() <= 255:
        return array.transpose(1, 2, 0).astype(np.uint8)
    there = np.stack([channel for channel in array if np.isfinite(channel).all()]).astype(np.float32)
    shown = there if len(there) == 3 else there[:1].repeat(3, axis=0)
    low, high = np.percentile(shown, (0.5, 99.5))
    levels: np.ndarray = np.clip((shown - low) / max(high - low, 1e-6), 0, 1) * 255
    return levels.astype(np.uint8).transpose(1, 2, 0)


def _free(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    left: float,
    top: float,
    text: str,
    size: tuple[int, int],
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:
    """Where a label goes: at the box's upper left corner, or below that where another label stands already."""
    width, height = draw.textlength(text, font=font) + 4, TEXT + 4
    x = min(max(left, 0), size[0] - width)
    y = min(max(top - height + 2, 0), size[1] - height)
    for _ in range(8):
        place = (x, y, x + width, y + height)
        if not any(place[0] < b[2] and b[0] < place[2] and place[1] < b[3] and b[1] < place[3] for b in taken):
            break
        y += height
    return (x, y, x + width, y + height)
