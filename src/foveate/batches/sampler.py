"""Batches as a pure function of (seed, step).

Nothing is carried from one step to the next: which cases, where their patches lie and how they are augmented
follows from the run's seed and the step alone. So a resumed run sees exactly the batches that it would have
seen, and there is no sampler state to save. Reading a patch is a copy out of a memory-mapped file (well under
a millisecond), so threads fetch ahead; there are no worker processes that could die.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from foveate.batches.augment import (
    Geometry,
    change_intensity,
    cut_out,
    drop_modalities,
    sample_geometry,
    sample_intensity,
    sampling_grid,
    to_device,
    warp,
)
from foveate.batches.labels import LABELS, region_of
from foveate.batches.prepare import PreparedCase, PreparedCohort
from foveate.cohort.plan import Plan
from foveate.cohort.split import Split
from foveate.config import AugmentConfig
from foveate.errors import FoveateError

FOREGROUND = 0.5  # share of labelled patches that are centred on a random voxel of a random class


@dataclass
class Batch:
    """What a method learns from in one step; L labelled and U unlabelled images, on the training device.

    images ``[L, C, *S]``, labels ``[L, *S]`` uint8 (or as ``batches.labels`` says of the task); weak ``[U, C, *S]``:
    unlabelled images with geometry alone; strong: further views ``[U, C, *S]`` of the same geometry with intensity
    changes. pseudo: as labels, the pseudo-labels of the unlabelled images through the same geometry, for a method that
    has them made; for one with a memory ``[U, K + 1, *S]``, probabilities and whether they are known. A missing
    modality of an image is NaN in its channel. cases: ids, labelled first. seed: for the random choices that a method
    makes itself. boxes: ``[U, *S]`` uint8, of the unlabelled images through the same
    geometry: bit k is set inside a box of class k. masks: ``[U, *S]`` uint8, labels that belong to none of the images.
    """

    images: Tensor
    labels: Tensor
    weak: Tensor
    strong: list[Tensor] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)
    seed: int = 0
    pseudo: Tensor | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None


@dataclass
class Regions:
    """Regions cut from prepared scans, in host memory: images ``[B, C, *R]``, labels ``[B, *R]`` uint8 (for other tasks
    see ``batches.labels``) or None; masks: ``[B, *R]`` uint8, of other scans, or None."""

    images: Tensor
    labels: Tensor | None
    cases: list[str]
    masks: Tensor | None = None


class Sampler:
    """Draws batches for a plan from prepared cases.

    Labelled images are drawn from ``split.train``, unlabelled ones from ``split.unlabelled``: once there are any, from
    those that have a pseudo-label. Raises FoveateError that names the case when a scan cannot be read.

    takes_missing: whether the network takes images of which modalities are missing (NaN); labelled images and strong
    views then lose some at random, weak views keep what the scan has.
    pseudo: prepared unlabelled cases whose labels are pseudo-labels, by id, put there between two steps. round: how
    often that has happened. pool: share of its images that are unlabelled.
    boxed, masks: for a method that learns from boxes: the unlabelled cases, with their filled boxes for labels, and
    labels without images.
    """

    def __init__(
        self,
        cohort: PreparedCohort,
        plan: Plan,
        augment: AugmentConfig,
        split: Split,
        seed: int,
        device: torch.device,
        takes_missing: bool = False,
        boxed: Mapping[str, PreparedCase] | None = None,
        masks: Mapping[str, PreparedCase] | None = None,
    ) -> None:
        self.boxed, self.masks = boxed or {}, masks or {}
        self.cohort, self.plan, self.augment = cohort, plan, augment
        self.labelled, self.unlabelled = list(split.train), list(split.unlabelled)
        self.pool = len(self.unlabelled) / max(len(self.labelled) + len(self.unlabelled), 1)
        self.seed, self.device = seed, device
        self.drops = takes_missing and augment.modality_p > 0 and len(plan.channels) > 1
        self.pseudo: dict[str, PreparedCase] = {}
        self.round = 0
        self.labels = LABELS[plan.task]
        self.region = region_of(plan)
        self.patches = self._patches(plan)

    def views(self, steps: float) -> float:
        """How often so many steps, of labelled images alone, show each place of these."""
        return steps * self.plan.batch / self.patches

    def by(self, plan: Plan) -> Sampler:
        """The same by a plan of another batch or patch."""
        other = copy.copy(self)
        other.plan, other.region, other.patches = plan, region_of(plan), other._patches(plan)
        return other

    def _patches(self, plan: Plan) -> float:
        """How many patches hold all labelled images once; 1 where there are none."""
        shapes = [plan.patch if plan.whole else self.cohort[name].shape for name in self.labelled]
        return max(sum(max(math.prod(shape) / math.prod(plan.patch), 1) for shape in shapes), 1)

    def read(self, step: int, labelled: int, unlabelled: int) -> tuple[Regions, Regions]:
        """The host part of a batch: which cases, and the regions cut out of them. Thread-safe."""
        random = np.random.default_rng([self.seed, step])
        known, guessed = self.cohort, self.boxed or self.pseudo
        first = self._cut(_choose(self.labelled, labelled, random), known, random, with_labels=True)
        second = (
            self._cut(_choose(list(guessed), unlabelled, random), guessed, random, with_labels=True)
            if guessed
            else self._cut(_choose(self.unlabelled, unlabelled, random), known, random, with_labels=False)
        )
        if self.masks:
            chosen = _choose(list(self.masks), unlabelled, random)
            second.masks = self._cut(chosen, self.masks, random, with_labels=True, with_images=False).labels
        return first, second

    def batch(self, step: int, regions: tuple[Regions, Regions], strong_views: int) -> Batch:
        """The device part: augmentation of the regions that ``read`` cut for the same step."""
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([self.seed, step, 1]).generate_state(1)[0])
        )
        with_labels, without = regions
        images, labels = self._geometry(with_labels, generator)
        images = self._intensity(images, generator)
        weak, pseudo = self._geometry(without, generator, gentle=self.plan.whole)
        boxes, pseudo = (pseudo, None) if self.boxed else (None, pseudo)
        strong = [self._strong(without, weak, generator) for _ in range(strong_views)] if len(weak) else []
        masks = without.masks
        if masks is not None:
            masks = masks.to(self.device, non_blocking=True)
            masks = self.labels.through(masks, *self._grid(len(masks), generator), self.plan)
        assert labels is not None
        seed = int(torch.randint(2**62, (1,), generator=generator))
        return Batch(images, labels, weak, strong, with_labels.cases + without.cases, seed, pseudo, boxes, masks)

    def _strong(self, regions: Regions, weak: Tensor, generator: torch.Generator) -> Tensor:
        """A strong view of unlabelled images: the weak one's geometry, so that voxels correspond, or where an image has
        one answer a geometry of its own, and a part hidden."""
        if not self.plan.whole:
            return self._intensity(weak, generator)
        images, _ = self._geometry(regions, generator)
        return cut_out(self._intensity(images, generator), self.augment.cutout_p, generator)

    def _geometry(
        self, regions: Regions, generator: torch.Generator, gentle: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """gentle: shifted and mirrored alone."""
        plan = self.plan
        images = regions.images.to(self.device, non_blocking=True).float()
        labels = None if regions.labels is None else regions.labels.to(self.device, non_blocking=True)
        if not len(images):
            empty = images.new_zeros(0, images.shape[1], *plan.patch)
            return empty, None if labels is None else self.labels.none(labels, plan)
        geometry, grid = self._grid(len(images), generator, gentle)
        return warp(images, grid), None if labels is None else self.labels.through(labels, geometry, grid, plan)

    def _grid(self, count: int, generator: torch.Generator, gentle: bool = False) -> tuple[Geometry, Tensor]:
        """A geometry for each of ``count`` patches, and where it reads them in their regions."""
        plan = self.plan
        size = [n * s for n, s in zip(plan.patch, plan.spacing, strict=True)]
        augment = self.augment.gentle() if gentle else self.augment
        geometry = sample_geometry(augment, count, size, plan.mirror_axes, generator)
        to_device(geometry, self.device)
        return geometry, sampling_grid(geometry, plan.patch, self.region, plan.spacing)

    def _intensity(self, images: Tensor, generator: torch.Generator) -> Tensor:
        params = sample_intensity(self.augment, len(images), self.plan.dims, generator)
        to_device(params, self.device)
        images = change_intensity(images, params)
        return drop_modalities(images, self.augment.modality_p, generator) if self.drops else images

    def _cut(
        self,
        ids: list[str],
        source: Mapping[str, PreparedCase],
        random: np.random.Generator,
        with_labels: bool,
        with_images: bool = True,
    ) -> Regions:
        images = np.zeros((len(ids), len(self.plan.channels), *self.region), np.float16)
        labels: list[np.ndarray] = []
        for i, name in enumerate(ids):
            try:
                case = source[name]
                own = with_labels and (case.voxels_path or case.target is not None)
                centre = _centre(case, self.plan, random, case if own else self._guide(random))
                here, there = _overlap(centre, case.shape, self.region)
                if with_images:
                    images[i][(slice(None), *there)] = case.image[(slice(None), *here)]
                if with_labels:
                    labels.append(self.labels.cut(case, here, there, self.region))
            except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
                raise FoveateError(
                    f"case {name}: its prepared scan could not be read ({type(error).__name__}: {error}). "
                    "Delete the run's prepared/ folder and continue with --resume."
                ) from error
        return Regions(torch.from_numpy(images), self.labels.stack(labels, self.plan) if with_labels else None, ids)

    def _guide(self, random: np.random.Generator) -> PreparedCase | None:
        """A labelled scan, if there is any, to say where in an unlabelled one a structure may lie."""
        return self.cohort[self.labelled[random.integers(len(self.labelled))]] if self.labelled else None


def _choose(ids: list[str], count: int, random: np.random.Generator) -> list[str]:
    """``count`` ids, without repeats as long as there are enough."""
    chosen: list[str] = []
    while len(chosen) < count and ids:
        chosen += [ids[i] for i in random.permutation(len(ids))[: count - len(chosen)]]
    return chosen


def _centre(case: PreparedCase, plan: Plan, random: np.random.Generator, guide: PreparedCase | None) -> list[int]:
    """guide: its label says where the foreground is: the case itself, or another one for a case without a label, whose
    patches are taken from the same places of the whole. Else they would show far less of what is to be learnt than the
    labelled ones, and teach how seldom it is."""
    shape, patch = case.shape, plan.patch
    if plan.whole:
        return [n // 2 for n in shape]
    wanted = [int(random.integers(0, n)) for n in shape]
    if guide and guide.voxels and random.random() < FOREGROUND:
        coordinates = list(guide.voxels.values())[random.integers(len(guide.voxels))]
        place = coordinates[random.integers(len(coordinates))]
        wanted = [int(c) * n // m for c, n, m in zip(place, shape, guide.shape, strict=True)]
    # A patch stays inside the scan; a scan smaller than the patch lies in its middle.
    return [
        n // 2 if n <= p else int(np.clip(c, p // 2, n - p + p // 2))
        for c, n, p in zip(wanted, shape, patch, strict=True)
    ]


def _overlap(
    centre: Sequence[int], shape: Sequence[int], region: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of the scan and of the region where a region around ``centre`` and the scan overlap."""
    here, there = [], []
    for c, n, r in zip(centre, shape, region, strict=True):
        start = c - r // 2
        low, high = max(start, 0), min(start + r, n)
        here.append(slice(low, high))
        there.append(slice(low - start, high - start))
    return tuple(here), tuple(there)
