"""A picture with boxes, their classes and scores drawn on it, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from foveate.boxes import SURE
from foveate.figures import PALETTE
from foveate.io.volume import Volume
from foveate.slices import SIDES, Cut, best_cut, grey_or_colour
from foveate.tasks import Boxes

CAPTION = f"boxes of a score of {SURE:g} and more"
SIDE = 900  # pixels of the longer side of a small image's picture
TEXT = 15  # pixels


def draw_boxes(volume: Volume, found: Boxes, names: Sequence[str], known: np.ndarray | None = None) -> bytes:
    """A picture whole; of a volume the slice across its thickest voxels through the middle of the surest box, as
    radiologists look at it, with letters at its sides, its number below and the boxes that reach it. Each box of a
    score of SURE has its class's colour, and class and score stand on it; the classes stand below. known: true boxes
    ``[N, 2 n]``, drawn in white beneath the others."""
    shown = found.scores >= SURE
    boxes, classes, scores = found.boxes[shown].numpy(), found.classes[shown].tolist(), found.scores[shown].tolist()
    true = np.empty((0, 2 * volume.dims)) if known is None else np.asarray(known, float)
    cut = _cut(volume, boxes if len(boxes) else true)
    boxes, here = cut.boxes(boxes, volume.shape)
    true, _ = cut.boxes(true, volume.shape)
    array = np.stack([cut.of(channel) for channel in volume.array])
    factors = _enlarged(array.shape[1:], cut.aspect)
    size = (round(array.shape[2] * factors[1]), round(array.shape[1] * factors[0]))
    canvas = Image.new("RGB", (size[0], size[1] + (2 + 2 * bool(cut.title)) * TEXT), "#101317")
    canvas.paste(Image.fromarray(grey_or_colour(array)).resize(size, Image.Resampling.BICUBIC), (0, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=TEXT)
    for box in true:
        top, left, bottom, right = box * np.tile(factors, 2)
        draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), outline="#000000", width=4)
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="#ffffff", width=2)
    labels = []
    for number, box in zip(here, boxes, strict=True):
        top, left, bottom, right = box * np.tile(factors, 2)
        colour = PALETTE[classes[number] % len(PALETTE)]
        draw.rectangle((left, top, right, bottom), outline="#000000", width=4)
        # A box of less than two pixels has nothing inside its outline, and Pillow draws no corner before another.
        draw.rectangle((left + 1, top + 1, max(left, right - 2) + 1, max(top, bottom - 2) + 1), outline=colour, width=2)
        labels.append((left, top, f"{names[classes[number]]} {scores[number]:.2f}", colour))
    taken: list[tuple[float, float, float, float]] = []
    for left, top, text, colour in labels:  # after all boxes, so that none is drawn through a word
        place = _free(draw, font, left, top, text, size, taken)
        taken.append(place)
        draw.rectangle(place, fill=colour)
        draw.text((place[0] + 2, place[1] + 1), text, fill="#000000", font=font)
    for letter, (x, y) in zip(cut.marks or (), SIDES, strict=False):
        middle = x * size[0] + TEXT * (1 - 2 * x), y * size[1] + TEXT * (1 - 2 * y)
        draw.text(middle, letter, "#ffffff", font, anchor="mm", stroke_width=2, stroke_fill="#000000")
    kinds = [classes[number] for number in here]
    legend = [(PALETTE[kind % len(PALETTE)], f"{name}: {kinds.count(kind)}") for kind, name in enumerate(names)]
    if known is not None:
        legend.append(("#ffffff", f"known: {len(true)}"))
    x = 4.0
    for colour, text in legend:
        draw.rectangle((x, size[1] + 8, x + 14, size[1] + 22), fill=colour)
        draw.text((x + 20, size[1] + 6), text, fill="#ffffff", font=font)
        x += 40 + draw.textlength(text, font=font)
    draw.text((4, size[1] + 6 + 2 * TEXT), cut.title, fill="#ffffff", font=font)
    out = io.BytesIO()
    canvas.save(out, "PNG")
    return out.getvalue()


def _cut(volume: Volume, boxes: np.ndarray) -> Cut:
    """The whole slice through the middle of the first box, or of the volume where there is none."""
    shown = np.zeros(volume.shape, bool)
    if len(boxes):
        low, high = np.split(np.clip(boxes[0], 0, np.tile(volume.shape, 2)), 2)
        shown[tuple(map(slice, np.floor(low).astype(int), np.ceil(high).astype(int)))] = True
    return best_cut(shown, volume.spacing, volume.affine, np.ones(volume.shape, bool))


def _enlarged(shape: Sequence[int], aspect: float) -> np.ndarray:
    """Pixels of the picture for a row and a column of a slice; aspect: height of its pixels over their width."""
    steps = np.array([aspect, 1.0]) / min(aspect, 1.0)
    factors: np.ndarray = steps * max(1.0, SIDE / max(steps * shape))
    return factors


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
