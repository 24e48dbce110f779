"""Scans and labels as the network sees them: canonical orientation, planned spacing, normalised intensities."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch

from foveate.batches.cache import (
    PreparedCase,
    PreparedCohort,
    complete,
    file_stem,
    read_grid,
    write_array,
    write_grid,
)
from foveate.batches.grid import Grid, Taps, linear_taps, resample, resample_axis
from foveate.batches.targets import TARGETS
from foveate.cohort.cohort import IGNORE, Case, Cohort
from foveate.cohort.facts import BACKGROUND
from foveate.cohort.plan import ChannelPlan, Plan
from foveate.errors import InputError, Problem, refuse
from foveate.files import Unwritable
from foveate.io import image_files, read_image, read_label
from foveate.io.stream import fits_memory
from foveate.io.volume import Volume

__all__ = ["Grid", "PreparedCase", "PreparedCohort", "prepare_cohort", "prepare_label", "prepare_volume"]

VOXELS_PER_CLASS = 10_000
# Statistics of a large image come from a regular sample of about this many voxels.
SAMPLE = 1 << 22
# Part of the cache key: raise it when preparation changes what it writes.
VERSION = 2


def prepare_volume(volume: Volume, plan: Plan) -> tuple[torch.Tensor, Grid]:
    """An image as the network takes it: float32 [C, *S'] and the grid that leads back. ``volume`` is not changed.

    Canonical orientation (RAS closest; pictures as they are), linear resampling to ``plan.spacing``, then the
    normalisation of each channel. A channel of nothing but NaN is a missing modality and stays so. Raises InputError
    when the image does not fit the plan, is not finite, or has no channel left.
    """
    source = volume.path or "image"
    if volume.dims != plan.dims:
        raise refuse(
            source, "dimensions", f"{volume.dims}D", f"{plan.dims}D", "Give images like those of the training set."
        )
    if len(volume.array) != len(plan.channels):
        names = ", ".join(channel.name for channel in plan.channels)
        raise refuse(
            source,
            "channels",
            len(volume.array),
            f"{len(plan.channels)} ({names})",
            "Give every channel that the model was trained with, in that order.",
        )
    grid = Grid.of(volume, plan)
    fits_memory(Path(source), 8 * len(plan.channels) * math.prod(grid.prepared_shape), grid.prepared_shape)
    canonical = grid.to_canonical(volume.array)
    prepared = torch.empty(len(plan.channels), *grid.prepared_shape)
    missing = 0
    for index, channel in enumerate(plan.channels):
        x = torch.from_numpy(np.require(canonical[index : index + 1], np.float32, ["C", "W"]))
        if x[(0,) * x.ndim].isnan() and x.isnan().all():
            prepared[index] = torch.nan
            missing += 1
            continue
        lowest, highest = (float(v) for v in torch.aminmax(x))
        # A sum or square of larger numbers would leave float32; NaN fails the comparison too.
        if not max(-lowest, highest) < 1e18:
            raise refuse(
                source,
                f"voxels of channel {index}",
                f"values from {lowest} to {highest}",
                "finite intensities below 1e18",
                "Repair the image: replace what is not a number, or rescale it.",
            )
        prepared[index] = resample(x, grid.prepared_shape, smooth=True)[0]
        del x
        _normalise(prepared[index], channel)
    if missing == len(plan.channels):
        names = ", ".join(channel.name for channel in plan.channels)
        raise refuse(source, "modalities", "none that is there", f"at least one of {names}", "Add the image's files.")
    return prepared, grid


def _normalise(x: torch.Tensor, channel: ChannelPlan) -> None:
    """Normalise one channel ``[*S']`` in place; a constant image becomes zeros."""
    if channel.normalisation == "ct":
        x.clamp_(channel.lower, channel.upper).sub_(channel.mean).div_(channel.std)
        return
    if channel.normalisation == "unit":
        x.mul_(2 / 255).sub_(1)
        return
    step = math.ceil(x.numel() / SAMPLE) | 1  # odd: walks through every column of even-sized rows
    values = x.view(-1)[::step].numpy()
    if np.mean(values == 0) > BACKGROUND and values.any():
        values = values[values != 0]
    lower, upper = (float(v) for v in np.percentile(values, [0.5, 99.5]))
    if not lower < upper:  # all but a few voxels are equal
        lower, upper = (float(v) for v in torch.aminmax(x))
    if not lower < upper:
        x.zero_()
        return
    values = values.clip(lower, upper).astype(np.float64)
    mean, deviation = float(values.mean()), float(values.std())
    if not deviation > 0:  # the voxels that differ were not in the sample
        deviation = upper - lower
    x.clamp_(lower, upper).sub_(mean).div_(deviation)


def as_shown(image: np.ndarray, plan: Plan) -> np.ndarray:
    """A prepared image ``[C, *S']`` for people: pictures of 8 bits a channel have their own values again."""
    if any(channel.normalisation != "unit" for channel in plan.channels):
        return image
    return np.clip((image + 1) * (255 / 2), 0, 255)


def prepare_label(labels: Volume, plan: Plan, grid: Grid) -> np.ndarray:
    """A label map on the prepared grid of its image: uint8 [*S'] label values, 255 where there is no information.

    Each class is resampled linearly by itself and the largest share wins, one class in memory at a time. A class
    that no prepared voxel would show keeps the voxel nearest to it.

    Raises InputError when the shape is not the image's or a value does not fit 8 bits.
    """
    source = labels.path or "label"
    if labels.shape != grid.original_shape:
        raise refuse(source, "shape", labels.shape, str(grid.original_shape), "Draw the label on its image's grid.")
    array = grid.to_canonical(labels.array[0])
    values = [int(v) for v in np.unique(array)]
    ignored = {IGNORE} if plan.ignore is None else {IGNORE, plan.ignore}
    wrong = [v for v in values if not 0 <= v < IGNORE and v not in ignored]
    if wrong:
        raise refuse(source, "label values", wrong[:5], "0 to 254, or the ignore value", "Renumber the classes.")
    shown = [v for v in values if v not in ignored]
    if grid.prepared_shape == grid.canonical_shape:
        out = array.astype(np.uint8)
        out[np.isin(array, list(ignored))] = IGNORE
        return np.ascontiguousarray(out)
    taps = [linear_taps(n, m) for n, m in zip(grid.canonical_shape, grid.prepared_shape, strict=True)]
    best = np.zeros(grid.prepared_shape, np.float32)
    out = np.full(grid.prepared_shape, IGNORE, np.uint8)
    for value in [*shown, IGNORE]:
        mask = np.isin(array, list(ignored)) if value == IGNORE else array == value
        _compete(mask, value, taps, best, out)
    for value in set(shown) - set(np.unique(out).tolist()):
        _keep_nearest(array == value, value, out)
    return out


def _compete(mask: np.ndarray, value: int, taps: list[Taps], best: np.ndarray, out: np.ndarray) -> None:
    """Write ``value`` wherever its linearly resampled ``mask`` exceeds ``best``, looking only at its bounding box."""
    box: list[slice] = []
    source: list[slice] = []
    local: list[Taps] = []
    for axis, tap in enumerate(taps):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not len(inside):
            return
        reached = ((tap.index >= int(inside[0])) & (tap.index <= int(inside[-1]))).any(1).nonzero().flatten()
        if not len(reached):
            return
        first, last = int(reached[0]), int(reached[-1]) + 1
        part, lower, upper = tap.rows(first, last)
        box.append(slice(first, last))
        source.append(slice(lower, upper))
        local.append(part)
    share = torch.from_numpy(np.ascontiguousarray(mask[tuple(source)], dtype=np.float32))
    for axis in sorted(range(mask.ndim), key=lambda a: len(local[a].index) / local[a].n_in):
        share = resample_axis(share, axis, local[axis])
    region, winner = best[tuple(box)], share.numpy() > best[tuple(box)] + 1e-6
    region[winner] = share.numpy()[winner]
    out[tuple(box)][winner] = value


def _keep_nearest(mask: np.ndarray, value: int, out: np.ndarray) -> None:
    """Give one voxel of ``out`` to a class that lost all of its own, without taking another class's last one."""
    voxels = np.argwhere(mask)
    middle = voxels[np.argmin(((voxels - voxels.mean(0)) ** 2).sum(1))]
    position = (middle + 0.5) * np.array(out.shape) / np.array(mask.shape) - 0.5
    nearest = np.clip(np.rint(position).astype(int), 0, np.array(out.shape) - 1)
    counts = np.bincount(out.reshape(-1), minlength=IGNORE + 1)
    steps = sorted(itertools.product((-2, -1, 0, 1, 2), repeat=out.ndim), key=lambda s: sum(v * v for v in s))
    for step in steps:
        place = tuple(int(v) for v in nearest + np.array(step))
        if all(0 <= v < n for v, n in zip(place, out.shape, strict=True)) and (
            out[place] in (0, IGNORE) or counts[out[place]] > 1
        ):
            out[place] = value
            return


def prepare_cohort(
    cohort: Cohort,
    plan: Plan,
    folder: Path,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedCohort:
    """Every case of ``cohort``, prepared by ``plan``, as memory-mapped files in ``folder``; what is there is reused.

    Cache key: SHA-256 of (path, size, modification time in ns) of the source files and of all that preparation
    reads from the plan (dims, spacing, channels, ignore value; the patch that pictures are to fit). Image and label
    have keys of their own, so a case whose label is withheld shares the image, and its label file is not opened.

    workers: threads. They cannot die unseen, and the work is in libraries that release the interpreter lock.
    progress: called with (cases done, cases in all).

    Raises InputError listing each case that failed with its cause; DiskFull when there is no room, Unwritable when
    the folder takes no file. A file under its final name is always complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    done: dict[str, PreparedCase] = {}
    problems: list[Problem] = []
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="prepare") as pool:
        futures = {pool.submit(_prepare_case, case, plan, folder, stop): case for case in cohort.cases}
        try:
            for count, future in enumerate(as_completed(futures), 1):
                case, error = futures[future], future.exception()
                if isinstance(error, Unwritable):  # the cache is at fault, and no case
                    raise type(error)(f"case {case.id}: {error} Cases already prepared are kept.") from error
                if error is not None:
                    problems += _problems(case, error)
                else:
                    done[case.id] = future.result()
                if progress is not None:
                    progress(count, len(futures))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    if problems:
        raise InputError(problems)
    return PreparedCohort({case.id: done[case.id] for case in cohort.cases})


def _prepare_case(case: Case, plan: Plan, folder: Path, stop: threading.Event) -> PreparedCase:
    if stop.is_set():
        raise CancelledError
    image_stem = folder / file_stem(case.id, cache_key(case.images, plan, "image"))
    image, grid_file = image_stem.with_suffix(".npy"), image_stem.with_suffix(".json")
    grid = read_grid(grid_file)
    if grid is None or not complete(image, np.float16, (len(plan.channels), *grid.prepared_shape)):
        prepared, grid = prepare_volume(read_image(case.images, len(plan.channels), case.missing), plan)
        limit = float(np.finfo(np.float16).max)
        write_array(image, prepared.clamp_(-limit, limit).numpy().astype(np.float16))
        write_grid(grid_file, grid)
    if plan.task in TARGETS:
        target = TARGETS[plan.task](case, plan, grid) if case.labelled else None
        return PreparedCase(case.id, grid, image, target=target)
    if case.label is None:
        return PreparedCase(case.id, grid, image)
    label_stem = folder / file_stem(case.id, cache_key((*case.images, case.label), plan, "label"))
    label, voxels = label_stem.with_suffix(".npy"), label_stem.with_suffix(".voxels.npy")
    if not (complete(label, np.uint8, grid.prepared_shape) and complete(voxels, np.int32, (None, 1 + len(grid.order)))):
        array = prepare_label(read_label(case.label), plan, grid)
        write_array(label, array)
        write_array(voxels, sample_voxels(array))
    return PreparedCase(case.id, grid, image, label, voxels)


def cache_key(files: tuple[Path, ...], plan: Plan, part: str) -> str:
    """See ``prepare_cohort``."""
    every = [file for image in files for file in image_files(image)]
    states = [(str(file.resolve()), (state := file.stat()).st_size, state.st_mtime_ns) for file in every]
    read = {"dims", "spacing", "channels", "ignore"} | ({"whole", "patch"} if plan.fits else set())
    settings = plan.model_dump(mode="json", include=read)
    return hashlib.sha256(json.dumps([VERSION, part, states, settings]).encode()).hexdigest()[:20]


def sample_voxels(label: np.ndarray) -> np.ndarray:
    """int32 [N, 1 + dims]: label value and index of at most VOXELS_PER_CLASS voxels of each foreground class."""
    tables = [np.zeros((0, 1 + label.ndim), np.int32)]
    for value in np.unique(label):
        if value in (0, IGNORE):
            continue
        flat = np.flatnonzero(label == value)
        if len(flat) > VOXELS_PER_CLASS:
            flat = np.sort(np.random.default_rng(int(value)).choice(flat, VOXELS_PER_CLASS, replace=False))
        index = np.stack(np.unravel_index(flat, label.shape), 1)
        tables.append(np.column_stack([np.full(len(flat), value), index]).astype(np.int32))
    return np.concatenate(tables)


def _problems(case: Case, error: BaseException) -> list[Problem]:
    """What went wrong with one case, with its id."""
    if isinstance(error, InputError):
        return [
            Problem(p.file, f"case {case.id}: {p.field}", p.found, p.expected, p.fix, p.severity, case.id)
            for p in error.problems
        ]
    found, fix = f"{type(error).__name__}: {error}", "Repair or remove it."
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # torch says it so
        found = "memory ran out while it was prepared"
        fix = "Close other programs, crop or resample the image, or use a larger machine."
    return [Problem(str(case.images[0]), f"case {case.id}", found, "a case that can be prepared", fix, case=case.id)]
