"""A cohort simulated on real anatomy: brains that differ in shape, pose, contrast, shading and noise.

The anatomy is the ICBM 2009a symmetric template (Fonov et al., NeuroImage 54, 2011): a T1 image of the brain with
probability maps of grey and white matter, which nilearn installs with itself; nothing is downloaded. Each subject is
that anatomy under a random affine pose and a random diffeomorphism (the exponential of a smooth stationary velocity
field, Arsigny et al., MICCAI 2006), seen with its own tissue contrast, point spread, bias field and Rician noise.
What is real is the anatomy; the differences between subjects are drawn, from the same law for all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from foveate.errors import refuse

GREY, WHITE = 1, 2
CLASSES = {"grey matter": GREY, "white matter": WHITE}
DATASET = {"channel_names": {"0": "T1"}, "labels": {"background": 0, **CLASSES}}
SHAPE = (48, 58, 50)  # voxels of each subject's grid: the whole brain, with room to move
SPACING = 3.5  # mm
CENTRE = (0.0, -17.0, 3.0)  # mm, middle of the brain in the template's space
VELOCITY_STRIDE = 2  # the velocity field is integrated on every second voxel: it is smooth


@dataclass(frozen=True)
class SimulatedCohort:
    """Folders in the plain layout, with a dataset.json that names the classes.

    train: images/, and labels/ for the labelled cases only. test: images/ and labels/.
    """

    train: Path
    test: Path


@dataclass(frozen=True)
class Anatomy:
    """Maps ``[4, *S]`` float32 on the template's grid: T1 in [0, 1], grey, white, and brain, each in [0, 1].

    origin: mm of voxel (0, 0, 0), for voxels of 1 mm along the axes of RAS space.
    means: mean T1 of fluid, grey and white matter; the T1 image less the mixture of these is the texture.
    """

    maps: np.ndarray
    origin: np.ndarray
    means: np.ndarray


@dataclass(frozen=True)
class Subject:
    """image: int16 ``[*S]`` in scanner units. label: uint8 ``[*S]``, 0 rest, 1 grey, 2 white. affine: 4x4 to RAS mm."""

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray


def simulate_cohort(
    root: Path,
    labelled: int = 4,
    unlabelled: int = 60,
    test: int = 20,
    seed: int = 0,
    on_done: Callable[[int], object] = lambda count: None,
) -> SimulatedCohort:
    """Write ``labelled + unlabelled`` training subjects and ``test`` test subjects under ``root``.

    The first ``labelled`` of the training subjects are the labelled ones; the others have no label file at all.
    A subject depends on ``seed`` and on its own number only.
    on_done: called with the number of subjects written so far.

    Raises InputError when nilearn is not installed, or when ``root`` holds files already.
    """
    if root.exists() and any(root.iterdir()):
        raise refuse(root, "folder", "files in it", "a new or empty folder", "Name another folder.")
    anatomy = load_anatomy()
    cohort = SimulatedCohort(root / "train", root / "test")
    for folder in (cohort.train, cohort.test):
        (folder / "images").mkdir(parents=True)
        (folder / "labels").mkdir()
        (folder / "dataset.json").write_text(json.dumps(DATASET, indent=2) + "\n", encoding="utf-8")

    def write(number: int) -> None:
        subject = simulate_subject(anatomy, np.random.default_rng([seed, number]))
        folder = cohort.train if number < labelled + unlabelled else cohort.test
        name = f"subject_{number:03d}.nii.gz"
        _save(folder / "images" / name, subject.image, subject.affine)
        if number < labelled or folder is cohort.test:
            _save(folder / "labels" / name, subject.label, subject.affine)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for count, _ in enumerate(pool.map(write, range(labelled + unlabelled + test)), start=1):
            on_done(count)
    return cohort


@lru_cache(maxsize=1)
def load_anatomy() -> Anatomy:
    """The template from nilearn's own files, cropped to the brain and smoothed to what voxels of 3.5 mm resolve.

    Raises InputError when nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError:
        raise refuse(
            "nilearn",
            "package",
            "not installed",
            "nilearn, which ships the template",
            "pip install 'foveate[demo]'",
        ) from None
    images = [
        datasets.load_mni152_template(resolution=1),
        datasets.load_mni152_gm_template(resolution=1),
        datasets.load_mni152_wm_template(resolution=1),
    ]
    maps = [np.asarray(image.dataobj, dtype=np.float32) for image in images]
    brain = (maps[0] > 0).astype(np.float32)
    box = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in ndimage.find_objects(brain.astype(np.uint8))[0])
    cropped = [ndimage.gaussian_filter(m[box], SPACING / 3) for m in (*maps, brain)]
    t1, grey, white, inside = cropped
    fluid = np.clip(inside - grey - white, 0, 1)
    weights = np.stack([fluid, grey, white]).reshape(3, -1)
    means = np.linalg.lstsq(weights.T[::17], t1.reshape(-1)[::17], rcond=None)[0]
    origin = images[0].affine[:3, 3] + [s.start for s in box]
    return Anatomy(np.stack(cropped), origin, means.astype(np.float32))


def simulate_subject(anatomy: Anatomy, rng: np.random.Generator) -> Subject:
    """One subject drawn with ``rng``."""
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = np.array(CENTRE) - SPACING * (np.array(SHAPE) - 1) / 2
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")).astype(np.float32)  # [3, *S]
    points = SPACING * grid + affine[:3, 3].reshape(3, 1, 1, 1)  # mm
    points = _pose(points + _displacement(rng), rng) - anatomy.origin.reshape(3, 1, 1, 1)
    maps = [ndimage.map_coordinates(m, points, order=1, output=np.float32) for m in anatomy.maps]
    t1, grey, white, brain = maps
    fluid = np.clip(brain - grey - white, 0, 1)
    tissues = np.stack([1 - grey - white, grey, white])  # [3, *S]: rest, grey, white
    label = tissues.argmax(axis=0).astype(np.uint8)
    texture = t1 - np.tensordot(anatomy.means, np.stack([fluid, grey, white]), 1)
    return Subject(_scan(np.stack([fluid, grey, white]), texture, rng), label, affine)


def _pose(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``points`` [3, *S] in mm under a random affine about the brain's centre: head pose and head size."""
    centre = np.array(CENTRE).reshape(3, 1)
    angles = np.deg2rad(rng.uniform(-8, 8, 3))
    matrix = np.diag(np.exp(rng.uniform(-0.08, 0.08, 3)))
    for axis, angle in enumerate(angles):
        plane = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[np.ix_(plane, plane)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        matrix = turn @ matrix
    shift = rng.uniform(-4, 4, (3, 1))
    moved = matrix @ (points.reshape(3, -1) - centre) + centre + shift
    return moved.reshape(points.shape).astype(np.float32)


def _displacement(rng: np.random.Generator) -> np.ndarray:
    """Displacement [3, *S] in mm of a diffeomorphism: seven squarings of a smooth velocity field."""
    shape = tuple(-(-size // VELOCITY_STRIDE) for size in SHAPE)
    step = SPACING * VELOCITY_STRIDE  # mm
    field = np.stack(
        [smooth_field(shape, 50 / step, 4.0, rng) + smooth_field(shape, 18 / step, 2.2, rng) for _ in shape]
    )
    field = field / step / 2**7  # voxels of the coarse grid
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(np.float32)
    for _ in range(7):
        moved = [ndimage.map_coordinates(c, grid + field, order=1, mode="nearest", output=np.float32) for c in field]
        field = field + np.stack(moved)
    fine = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")).astype(np.float32) / VELOCITY_STRIDE
    return step * np.stack([ndimage.map_coordinates(c, fine, order=1, mode="nearest") for c in field])


def smooth_field(shape: tuple[int, ...], wavelength: float, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian random field ``[*shape]`` of zero mean: cubic splines through independent knots.

    wavelength: voxels between knots. deviation: standard deviation at the knots.
    """
    knots = tuple(int(np.ceil(size / wavelength)) + 3 for size in shape)
    values = rng.normal(0, deviation, knots).astype(np.float32)
    offset = rng.uniform(0, 1, len(shape))
    axes = [1 + o + np.arange(size, dtype=np.float32) / wavelength for size, o in zip(shape, offset, strict=True)]
    where = np.stack(np.meshgrid(*axes, indexing="ij"))
    return ndimage.map_coordinates(values, where, order=3, mode="nearest", output=np.float32)


def _scan(tissues: np.ndarray, texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int16 ``[*S]``: fluid, grey and white ``[3, *S]`` seen by a scanner of its own contrast, shading and noise."""
    white = 1.0
    grey = rng.uniform(0.55, 0.82)
    fluid = rng.uniform(0.15, 0.45)
    image = np.tensordot(np.array([fluid, grey, white], dtype=np.float32), tissues, 1)
    image = image + rng.uniform(0.5, 1.5) * (white - grey) / 0.25 * texture
    image = np.clip(image, 0, None) ** rng.uniform(0.8, 1.25)
    image = ndimage.gaussian_filter(image, rng.uniform(0.0, 0.6))
    image = image * np.exp(smooth_field(SHAPE, 75 / SPACING, rng.uniform(0.05, 0.2), rng))
    level = rng.uniform(0.015, 0.07)
    real, imaginary = rng.normal(0, level, (2, *image.shape))
    magnitude = np.hypot(image + real, imaginary)  # Rician noise: a magnitude image
    return np.rint(magnitude * np.exp(rng.uniform(np.log(150), np.log(1500)))).astype(np.int16)


def _save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nib.save(image, path)
