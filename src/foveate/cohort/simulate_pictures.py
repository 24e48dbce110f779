"""Pictures with classes, simulated on real anatomy: slices of brains without a lesion, with a solid one or a ring.

The anatomy is that of ``simulate``: axial slices of the ICBM template (Fonov et al., NeuroImage 54, 2011), each under
its own smooth deformation, contrast, shading and noise. The lesions are drawn: an ellipse with a wavy border at any
place within the brain, brighter than what surrounds it, throughout or along its border alone.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from foveate.cohort.layout_classes import UNLABELLED
from foveate.cohort.simulate import Anatomy, load_anatomy, smooth_field
from foveate.errors import refuse

KINDS = ("none", "ring", "solid")
SIZE, SPACING = 64, 3.3  # pixels a side, and their size in mm
SLICES = (0.42, 0.66)  # part of the brain's height that slices are taken from
RADIUS = (10.0, 18.0)  # mm, of a lesion


@dataclass(frozen=True)
class SimulatedPictures:
    """Folders of class folders. train: a few pictures of each class, the others in unlabelled/. test: all labelled."""

    train: Path
    test: Path


def simulate_pictures(
    root: Path, labelled: int = 20, unlabelled: int = 300, test: int = 150, seed: int = 0
) -> SimulatedPictures:
    """Write ``labelled`` training pictures of each class, ``unlabelled`` others and ``test`` test pictures, of which
    each class has a third. A picture depends on ``seed`` and on its own number only.

    Raises InputError when nilearn is not installed, or when ``root`` holds files already.
    """
    if root.exists() and any(root.iterdir()):
        raise refuse(root, "folder", "files in it", "a new or empty folder", "Name another folder.")
    anatomy, found = load_anatomy(), SimulatedPictures(root / "train", root / "test")
    teaching = labelled * len(KINDS)
    for folder in (found.train, found.test):
        for name in KINDS:
            (folder / name).mkdir(parents=True)
    (found.train / UNLABELLED[0]).mkdir()

    def write(number: int) -> None:
        kind = KINDS[number % len(KINDS)]
        folder = found.test / kind
        if number < teaching + unlabelled:
            folder = found.train / (kind if number < teaching else UNLABELLED[0])
        pixels = simulate_picture(anatomy, kind, np.random.default_rng([seed, number]))
        Image.fromarray(pixels).save(folder / f"picture_{number:04d}.png")

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(write, range(teaching + unlabelled + test)))
    return found


def simulate_picture(anatomy: Anatomy, kind: str, rng: np.random.Generator) -> np.ndarray:
    """One picture of a kind: uint8 ``[SIZE, SIZE]``, front above."""
    t1, _, _, brain = anatomy.maps
    index = int(rng.uniform(*SLICES) * t1.shape[2])
    points = _points(t1.shape, rng)  # [2, SIZE, SIZE], mm, which are voxels of the template
    image, inside = (ndimage.map_coordinates(m[:, :, index], points, order=1) for m in (t1, brain))
    image = (image / t1.max()) ** rng.uniform(0.8, 1.3)
    if kind != "none":
        image = image + rng.uniform(0.35, 0.55) * _lesion(inside > 0.9, kind == "ring", rng)
    image = image * np.exp(smooth_field((SIZE, SIZE), 80 / SPACING, rng.uniform(0.05, 0.25), rng))
    level = rng.uniform(0.02, 0.07)
    image = np.hypot(image + rng.normal(0, level, image.shape), rng.normal(0, level, image.shape))
    return (255 * np.clip(image / 1.6, 0, 1)).astype(np.uint8)


def _points(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Where each pixel reads its slice: a random pose and a smooth deformation; rows run from front to back."""
    rows, columns = np.meshgrid(*[np.arange(SIZE) - (SIZE - 1) / 2] * 2, indexing="ij")
    across, along = SPACING * columns, -SPACING * rows  # x and y, mm
    angle, scale = np.deg2rad(rng.uniform(-15, 15)), np.exp(rng.uniform(-0.12, 0.12, 2))
    x = scale[0] * (np.cos(angle) * across - np.sin(angle) * along) + shape[0] / 2
    y = scale[1] * (np.sin(angle) * across + np.cos(angle) * along) + shape[1] / 2
    bend = [smooth_field((SIZE, SIZE), 45 / SPACING, 4.0, rng) + rng.uniform(-6, 6) for _ in range(2)]
    return np.stack([x + bend[0], y + bend[1]])


def _lesion(brain: np.ndarray, ring: bool, rng: np.random.Generator) -> np.ndarray:
    """Weight of a lesion in [0, 1] whose centre lies in the brain, ``[SIZE, SIZE]``."""
    room = np.argwhere(ndimage.binary_erosion(brain, iterations=2))
    centre = room[rng.integers(len(room))]
    rows, columns = (np.arange(SIZE)[:, None] - centre[0], np.arange(SIZE)[None] - centre[1])
    radius, stretch = rng.uniform(*RADIUS) / SPACING, rng.uniform(0.75, 1.3)
    distance = np.hypot(rows * stretch, columns / stretch) / radius
    distance = distance * (1 + smooth_field((SIZE, SIZE), 10 / SPACING, 0.12, rng))
    body = distance < 1
    if ring:
        body &= distance > rng.uniform(0.55, 0.7)
    return np.asarray(ndimage.gaussian_filter((body & brain).astype(np.float32), 0.5))
