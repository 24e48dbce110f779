"""Lesions planted into real scans, so that it is known where the evidence lies and that nothing else tells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

RADIUS = (0.04, 0.08)  # mean radius over the image's longest side
CONTRAST = (1.5, 2.5)  # above the surroundings, in standard deviations of the tissue
ELONGATION = 1.4  # longest over shortest half axis at most
IRREGULAR = 0.25  # how far the border strays, as a share of the radius
EDGE = 0.12  # width of the soft edge, as a share of the radius
TEXTURE = 0.3  # standard deviation inside, as a share of the contrast


def tissue(image: np.ndarray) -> np.ndarray:
    """The head: the largest part brighter than a fifth of the bright, without holes: bool ``[*S]``."""
    low, high = np.percentile(image, [1, 99])
    parts, number = ndimage.label(ndimage.gaussian_filter(image.astype(float), 1) > low + 0.2 * (high - low))
    if not number:
        return np.ones(image.shape, bool)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(parts == largest))


def smooth_noise(shape: Sequence[int], width: float, random: np.random.Generator) -> np.ndarray:
    """Gaussian noise of mean 0 and deviation 1 that changes over about ``width`` voxels."""
    noise = ndimage.gaussian_filter(random.normal(size=shape), width, mode="wrap")
    return np.asarray((noise - noise.mean()) / noise.std())


def plant(image: np.ndarray, spacing: Sequence[float], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image ``[*S]`` with a bright lesion of soft edge and texture somewhere in the head, and its mask ``[*S]``.

    The lesion is an ellipsoid in mm whose border strays. It lies where a ball of its radius is inside the head, or
    where most of one is. The mask is where the lesion has half its strength.
    """
    size, head = np.multiply(image.shape, spacing), tissue(image)
    radius = random.uniform(*RADIUS) * size.max()
    depth = ndimage.distance_transform_edt(np.pad(head, 1), sampling=spacing)[(slice(1, -1),) * image.ndim]
    places = np.argwhere(depth >= min(1.2 * radius, 0.9 * depth.max()))
    centre = random.choice(places)
    axes = radius * random.uniform(ELONGATION**-0.5, ELONGATION**0.5, image.ndim)
    turn, _ = np.linalg.qr(random.normal(size=(image.ndim, image.ndim)))
    offsets = np.stack(
        np.meshgrid(
            *[(np.arange(n) - c) * s for n, c, s in zip(image.shape, centre, spacing, strict=True)], indexing="ij"
        )
    )
    distance = np.linalg.norm(np.tensordot(turn / axes[:, None], offsets, 1), axis=0)
    distance += IRREGULAR * smooth_noise(image.shape, 0.5 * radius / min(spacing), random).clip(-1.5, 1.5)
    strength = 1 / (1 + np.exp((distance - 1) / EDGE))
    texture = 1 + TEXTURE * smooth_noise(image.shape, 1, random)
    contrast = random.uniform(*CONTRAST) * image[head].std()
    return image + contrast * strength * texture, strength >= 0.5
