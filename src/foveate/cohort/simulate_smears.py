"""Pictures with boxes, drawn from nothing: a smear of red cells with pale middles, white cells and platelets.

What a blood smear looks like under a microscope, in a few shapes: red cells are discs that may overlap, white cells are
larger with a lobed nucleus, platelets are small and granular. Every picture has its own stain, light, focus and noise.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from foveate.cohort.simulate import smooth_field
from foveate.errors import refuse

KINDS = ("platelet", "red cell", "white cell")
SIZE = (144, 192)  # rows, columns
RADIUS = {"platelet": (4.5, 6.5), "red cell": (11.0, 14.0), "white cell": (18.0, 24.0)}  # pixels
LARGEST = 0.35  # IoU of boxes up to which cells overlap


@dataclass(frozen=True)
class SimulatedSmears:
    """Dataset folders with boxes in COCO's form. train: some pictures labelled, the others not. test: all labelled."""

    train: Path
    test: Path


def simulate_smears(root: Path, labelled: int, unlabelled: int, test: int, seed: int = 0) -> SimulatedSmears:
    """Write the pictures; each depends on ``seed`` and on its own number only.

    Raises InputError when ``root`` holds files already.
    """
    if root.exists() and any(root.iterdir()):
        raise refuse(root, "folder", "files in it", "a new or empty folder", "Name another folder.")
    found = SimulatedSmears(root / "train", root / "test")
    for folder in (found.train, found.test):
        (folder / "images").mkdir(parents=True)

    def write(number: int) -> tuple[int, list[tuple[str, tuple[int, int, int, int]]]]:
        folder = found.train if number < labelled + unlabelled else found.test
        pixels, boxes = simulate_smear(np.random.default_rng([seed, number]))
        Image.fromarray(pixels).save(folder / "images" / name_of(number))
        return number, boxes

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        drawn = list(pool.map(write, range(labelled + unlabelled + test)))
    _annotate(found.train, drawn[:labelled])
    _annotate(found.test, drawn[labelled + unlabelled :])
    return found


def name_of(number: int) -> str:
    return f"smear_{number:04d}.png"


def simulate_smear(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, tuple[int, int, int, int]]]]:
    """One picture, uint8 ``[*SIZE, 3]``, and its structures: name and box (top, left, bottom, right)."""
    plasma = np.array([0.93, 0.90, 0.88]) * rng.uniform(0.92, 1.05, 3)
    image = np.broadcast_to(plasma, (*SIZE, 3)).copy()
    stain = {
        "red cell": np.array([0.86, 0.62, 0.60]) * rng.uniform(0.92, 1.06, 3),
        "white cell": np.array([0.78, 0.74, 0.86]) * rng.uniform(0.94, 1.05, 3),
        "platelet": np.array([0.62, 0.45, 0.68]) * rng.uniform(0.9, 1.1, 3),
    }
    nucleus = np.array([0.42, 0.27, 0.58]) * rng.uniform(0.9, 1.1, 3)
    wanted = ["white cell"] * int(rng.integers(0, 3)) + ["red cell"] * int(rng.integers(8, 16))
    wanted += ["platelet"] * int(rng.integers(0, 5))
    boxes: list[tuple[str, tuple[int, int, int, int]]] = []
    for kind in wanted:
        for _ in range(20):
            shape = _disc(rng, *RADIUS[kind])
            box = _box(shape < 1)
            if box and max([_overlap(box, other) for _, other in boxes], default=0.0) < LARGEST:
                boxes.append((kind, box))
                _stain(image, shape, kind, stain[kind], nucleus, rng)
                break
    image = np.stack([ndimage.gaussian_filter(channel, rng.uniform(0.4, 1.1)) for channel in image.transpose(2, 0, 1)])
    image = image * np.exp(smooth_field(SIZE, 60, rng.uniform(0.02, 0.1), rng))
    image = image + rng.normal(0, rng.uniform(0.01, 0.04), image.shape)
    return (255 * np.clip(image, 0, 1)).astype(np.uint8).transpose(1, 2, 0), boxes


def _disc(rng: np.random.Generator, least: float, most: float) -> np.ndarray:
    """Distance from a random centre in units of a wavy radius, ``[*SIZE]``: below 1 inside."""
    centre, radius, stretch = rng.uniform(0, SIZE), rng.uniform(least, most), np.exp(rng.uniform(-0.12, 0.12))
    rows, columns = (np.arange(n) - c for n, c in zip(SIZE, centre, strict=True))
    y, x = rows[:, None] * stretch, columns[None] / stretch
    angle, phase = np.arctan2(y, x), rng.uniform(0, 2 * np.pi, 2)
    wave = 1 + 0.05 * np.sin(2 * angle + phase[0]) + 0.03 * np.sin(3 * angle + phase[1])
    return np.asarray(np.hypot(y, x) / (radius * wave))


def _stain(
    image: np.ndarray, shape: np.ndarray, kind: str, colour: np.ndarray, nucleus: np.ndarray, rng: np.random.Generator
) -> None:
    """Draw one structure into the picture ``[*SIZE, 3]``."""
    body = np.clip((1 - shape) * 8, 0, 1)[..., None]
    if kind == "red cell":  # two discs, one over the other, are darker; the middle is pale
        pale = 0.6 * np.exp(-((shape / 0.45) ** 2))[..., None]
        image *= 1 - body * (1 - pale) * (1 - colour)
        return
    image[:] = image * (1 - body) + body * colour
    if kind == "white cell":
        inside = np.argwhere(shape < 0.5)
        lobes = inside[rng.integers(0, len(inside), 3)]
        reach = 0.42 * np.sqrt((shape < 1).sum() / np.pi)
        rows, columns = np.arange(SIZE[0])[:, None], np.arange(SIZE[1])[None]
        near = np.min([np.hypot(rows - r, columns - c) for r, c in lobes], axis=0) / reach
        dark = np.clip((1 - near) * 6, 0, 1)[..., None] * (shape < 0.9)[..., None]
        image[:] = image * (1 - dark) + dark * nucleus


def _box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Bounding box of what the picture shows of a structure; None of one of which it shows next to nothing."""
    if mask.sum() < 40:
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _overlap(a: Sequence[int], b: Sequence[int]) -> float:
    """IoU of two boxes (top, left, bottom, right)."""
    both = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _annotate(folder: Path, drawn: Sequence[tuple[int, Sequence[tuple[str, tuple[int, int, int, int]]]]]) -> None:
    annotations = [
        {
            "id": 1000 * number + place,
            "image_id": number,
            "category_id": KINDS.index(kind) + 1,
            "bbox": [left, top, right - left, bottom - top],
        }
        for number, boxes in drawn
        for place, (kind, (top, left, bottom, right)) in enumerate(boxes)
    ]
    images = [{"id": n, "file_name": name_of(n), "width": SIZE[1], "height": SIZE[0]} for n, _ in drawn]
    categories = [{"id": number, "name": name} for number, name in enumerate(KINDS, 1)]
    data = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "annotations.json").write_text(json.dumps(data))
