"""From a cohort's fingerprint to a plan: target voxel size, patch, batch, network shape, normalisation.

The rules are nnU-Net's in spirit (Isensee, Nature Methods 2021): median spacing and shape, a patch of the cohort's
own proportions, pooling while an axis is long enough. What differs is the budget: voxels per step that the
machine at hand gets through, so that a laptop trains a smaller picture of the same anatomy in place of a corner of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from foveate.cohort.cohort import Cohort
from foveate.cohort.fingerprint import Fingerprint
from foveate.cohort.plan import ChannelPlan, Plan, normalisation_of
from foveate.cohort.targets import statistics
from foveate.errors import refuse

WHOLE = ("classification", "regression")  # tasks of one answer for an image
WHOLE_BATCH = {2: 16, 3: 8}  # images per step: of few, a step says little of how they differ
BOX_SIDE = 12  # voxels along the shortest side of small boxes
SLACK = 1.1  # share of the voxels per image that rounding to the network's strides may add up to
SMALLEST = 5  # voxels per axis that the deepest stage keeps at least
ANISOTROPIC = 2.0  # an axis coarser than the finest by this factor is not pooled


@dataclass(frozen=True)
class Budget:
    """What a machine can take.

    voxels: per training step, batch times patch. width: channels of the first stage. widest: of any stage.
    scan: voxels that a scan may hold; beyond, voxels are planned coarser (at most by the factor ``coarser``).
    """

    voxels: int
    width: int
    widest: int
    scan: int
    coarser: float

    def scaled(self, factor: float) -> Budget:
        """The same machine with ``factor`` times the voxels per step; scans keep their resolution."""
        return replace(self, voxels=max(int(self.voxels * factor), 4096))


# CPU: about half a second a step on two cores with bfloat16. GPU: about 12 GiB.
CPU = Budget(voxels=412_000, width=16, widest=256, scan=310_000, coarser=3.0)
GPU = Budget(voxels=4_000_000, width=32, widest=320, scan=24_000_000, coarser=2.0)


def make_plan(cohort: Cohort, fingerprint: Fingerprint, budget: Budget, mirror: str | list[int] = "auto") -> Plan:
    """The plan for ``cohort`` (its classes filled in) under a voxel budget.

    One patch is the whole image where an image has one answer.
    mirror: axes that augmentation may flip; "auto" flips pictures left-right, and volumes not: organs have sides.
    """
    spacing = np.array(fingerprint.spacing)
    shape = np.array(fingerprint.shape, float)
    least = 4 if cohort.dims == 2 else 2  # samples per step
    whole = cohort.task in WHOLE
    box = fingerprint.smallest_box
    if whole:
        target, patch, strides = _whole(cohort.dims, fingerprint, budget)
    else:
        target, patch, strides = _part(cohort.dims, shape, spacing, budget, least, box)
    batch = int(np.clip(budget.voxels // math.prod(patch), least, 16))
    widths = tuple(min(budget.width * 2**stage, budget.widest) for stage in range(len(strides)))
    return Plan(
        dims=cohort.dims,  # type: ignore[arg-type]
        spacing=tuple(round(float(s), 4) for s in target),
        patch=patch,
        batch=batch,
        channels=tuple(_channel(name, i, fingerprint, cohort.dims) for i, name in enumerate(cohort.channels)),
        classes=cohort.classes,
        ignore=cohort.ignore,
        tree=cohort.tree,
        mirror_axes=_mirror_axes(mirror, cohort.dims),
        widths=widths,
        strides=strides,
        task=cohort.task,
        whole=whole,
        exclusive=cohort.exclusive,
        **statistics(cohort),
    )


Strides = tuple[tuple[int, ...], ...]


def _part(
    dims: int, shape: np.ndarray, spacing: np.ndarray, budget: Budget, least: int, box: float | None
) -> tuple[np.ndarray, tuple[int, ...], Strides]:
    """Voxel size, patch and strides of a network that sees parts of a scan, ``least`` of them a step.

    box: mm of the shortest side of small boxes to find. Voxels are as coarse as they allow: what is sought is then of a
    size that the network sees at once, and a step shows it more of the scan.
    """
    coarser = (shape.prod() / budget.scan) ** (1 / dims)
    coarser = float(np.clip(coarser, 1.0, budget.coarser))
    if box is not None:
        # Of a scan that fits into a quarter of a patch no more is to be seen at once.
        most = (shape.prod() / (budget.voxels / least / 4)) ** (1 / dims)
        coarser = max(1.0, min(box / BOX_SIDE / spacing.min(), most))
    # Coarsen the fine axes first: the target grows towards isotropic voxels.
    target = np.maximum(spacing, spacing.min() * coarser)
    shape = shape * spacing / target
    return target, *_patch(shape, target, budget.voxels // least)


def _whole(dims: int, fingerprint: Fingerprint, budget: Budget) -> tuple[np.ndarray, tuple[int, ...], Strides]:
    """Pixel size, patch and strides of a network that sees whole images, WHOLE_BATCH of them a step.

    Pictures: the patch has the proportions of the median picture, and each is resampled to fit; what is said as voxel
    size is that of the median one. Volumes: the patch holds the largest scan, at a voxel size in mm that allows it.
    """
    spacing = np.array(fingerprint.spacing)
    shape = np.array(fingerprint.shape if dims == 2 else fingerprint.shape_largest, float)
    voxels = budget.voxels // WHOLE_BATCH[dims]
    coarser = max((shape.prod() / voxels) ** (1 / dims), 1.0)
    while True:
        target = np.maximum(spacing, spacing.min() * coarser)
        size = np.maximum(shape * spacing / target, 1)
        strides = _strides(size, target)
        divisor = np.prod(strides, axis=0)
        # A picture fits whatever the patch is, so that sides are rounded to the nearest; a volume must have room.
        patch = (np.rint(size / divisor) if dims == 2 else np.ceil(size / divisor - 0.02)).clip(1) * divisor
        if patch.prod() <= voxels * SLACK or size.max() <= 2:
            return target, tuple(int(n) for n in patch), strides
        coarser *= 1.05


def _patch(shape: np.ndarray, spacing: np.ndarray, voxels: int) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Patch of the scan's proportions with at most about ``voxels``, and the strides of a network that fits it."""
    size = shape.copy()
    while True:
        strides = _strides(size, spacing)
        divisor = np.prod(strides, axis=0)
        # Whole scans are covered; a patch that must be smaller is rounded down.
        patch = np.ceil(size / divisor) * divisor
        if patch.prod() > voxels:
            patch = np.maximum(np.floor(size / divisor), 1) * divisor
        if patch.prod() <= voxels or (patch <= divisor).all():
            return tuple(int(n) for n in patch), strides
        longest = int(np.argmax(size * spacing))
        size[longest] *= 0.95


def _strides(size: np.ndarray, spacing: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Pool every axis by two while it keeps SMALLEST voxels and is not much coarser than the finest one."""
    strides = [(1,) * len(size)]
    while len(strides) < 6:
        fine = spacing < spacing.min() * ANISOTROPIC
        pool = fine & (np.ceil(size / 2) >= SMALLEST - 0.5)
        if not pool.any():
            break
        strides.append(tuple(2 if p else 1 for p in pool))
        size, spacing = np.where(pool, np.ceil(size / 2), size), np.where(pool, spacing * 2, spacing)
    return tuple(strides)


def _mirror_axes(mirror: str | list[int], dims: int) -> tuple[int, ...]:
    if isinstance(mirror, str):
        return (1,) if mirror == "auto" and dims == 2 else ()
    if wrong := [axis for axis in mirror if not 0 <= axis < dims]:
        raise refuse("configuration", "augment.mirror", wrong, f"axes from 0 to {dims - 1}", "Name array axes.")
    return tuple(sorted(set(mirror)))


def _channel(name: str, index: int, fingerprint: Fingerprint, dims: int) -> ChannelPlan:
    """How one channel is normalised, and for CT within which limits."""
    statistics = fingerprint.channels[index]
    low, high = statistics.percentiles[0], statistics.percentiles[-1]
    normalisation = normalisation_of(name, dims, len(fingerprint.channels), low, high)
    if normalisation == "ct":
        inside = statistics.foreground or statistics
        return ChannelPlan(
            name=name,
            normalisation=normalisation,
            lower=inside.percentiles[0],
            upper=inside.percentiles[-1],
            mean=inside.mean,
            std=max(inside.std, 1e-6),
        )
    return ChannelPlan(name=name, normalisation=normalisation)
