"""A trained model that labels scans: ``foveate.load(run).predict("scan.nii.gz")``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from foveate.batches.grid import Grid
from foveate.batches.prepare import prepare_volume
from foveate.cohort.plan import Plan
from foveate.errors import FoveateError, InputError, refuse
from foveate.io import read_image
from foveate.io.volume import Volume
from foveate.layers import present
from foveate.networks import build_network
from foveate.predict.device import bfloat16_pays, pick_device
from foveate.predict.model_file import DESCRIPTION, WEIGHTS, find_model, load_model
from foveate.predict.resample import Restorer, way_back
from foveate.predict.sliding import Forward, Scan, Windows, divide, place_windows, roll
from foveate.predict.views import View, draw_views
from foveate.tasks import TASKS, Segmentation, build_task

Precision = Literal["auto", "float32", "bfloat16"]

# Bytes that the activations of one call of the network may take. Fixed, not measured: whether a volume is seen whole
# changes its labels a little, and that must not depend on what else the machine is doing.
ACTIVATIONS = 1 << 30
# Bytes for the sums of logits.
SUMS = 3 << 28


@dataclass(frozen=True)
class Averaging:
    """What an answer is averaged over, beside the image itself: mirrorings of spatial axes, and other views."""

    mirror: tuple[int, ...] = ()
    views: Sequence[View] = ()


class Predictor:
    """Network, task and plan, ready to label scans on ``device``.

    network: in evaluation ``[B, C, *S] -> logits [B, K, *S]`` for S divisible by the product of the strides.
    precision: ``auto`` takes bfloat16 where the processor has units for it. batch: windows per call of the network,
    as many as the plan's batch by default; fewer where they would take too much memory.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Segmentation,
        plan: Plan,
        *,
        device: str | torch.device = "cpu",
        precision: Precision = "auto",
        batch: int | None = None,
    ) -> None:
        self.device = pick_device(device)
        self.network = network.to(self.device).eval()
        self.task, self.plan = task, plan
        self.bfloat16 = precision == "bfloat16" or (precision == "auto" and bfloat16_pays(self.device))
        self.strides = tuple(math.prod(stage[axis] for stage in plan.strides) for axis in range(plan.dims))
        self.batch = batch or plan.batch

    def predict(
        self,
        source: str | Path | Sequence[Path] | np.ndarray | Volume,
        *,
        spacing: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        mirror: bool | Sequence[int] = False,
        views: int = 0,
        overlap: float = 0.5,
    ) -> np.ndarray:
        """Labels of a scan on its own voxel grid: uint8 ``[*S]``.

        source: a file, the files of its channels, a Volume, or an array ``[*S]`` or ``[C, *S]``, NaN in a channel that
        is missing, if the network takes that.
        spacing: voxel size of an array in mm, whose axes then run right, anterior, superior; affine: its 4x4
        matrix instead (voxel index -> RAS mm). A 3D array needs one of them.
        mirror: average over all mirrorings of the plan's axes, or of the canonical (RAS) axes given; 2^axes times
        the work. views: average over so many turned and zoomed views beside the scan as it is, each as much work.
        overlap: share of a window that the next one covers again.

        Raises InputError when the source cannot be read or does not fit the model.
        """
        if not 0 <= overlap <= 0.9:
            raise refuse("predict", "overlap", overlap, "0 to 0.9", "0.5 is a good choice.")
        if isinstance(source, np.ndarray):
            volume = self._from_array(source, spacing, affine)
        elif isinstance(source, Volume):
            volume = source
        else:
            volume = self.read([Path(source)] if isinstance(source, str | Path) else [Path(file) for file in source])
        drawn = draw_views(views, self.plan.spacing, self.plan.mirror_axes, seed=0)
        averaging = Averaging(self._mirror_axes(mirror), drawn)
        image, grid = prepare_volume(volume, self.plan)
        if not self.takes_missing and (absent := (~present(image[None])[0]).nonzero()[:, 0].tolist()):
            raise self.refuse_missing(str(volume.path or "image"), "modalities", absent)
        return self._label(image, grid, averaging, overlap, self.task.decode)

    def predict_prepared(self, image: np.ndarray, views: Sequence[View] = (), sureness: float = 0.0) -> np.ndarray:
        """Labels of a prepared scan ``[C, *S']`` on its own grid: uint8 ``[*S']``.

        views: averaged over beside the image itself. sureness: 255 is written where the answer is less sure than this.
        """
        tensor = torch.from_numpy(np.array(image, np.float32))
        decode = partial(self.task.decode, sureness=sureness)
        return self._label(tensor, Grid.unchanged(tensor.shape[1:]), Averaging(views=views), 0.5, decode)

    def maps(self, volume: Volume, count: int, forward: Forward) -> np.ndarray:
        """Other maps than logits, blended over windows as the prediction is, on the scan's own grid: float32
        ``[count, *S]``.

        forward: windows ``[B, C, *window]`` on the device -> maps ``[B, count, *window]`` float32; one at a time.
        Raises InputError when the volume does not fit the model.
        """
        image, grid = prepare_volume(volume, self.plan)
        out = np.zeros((count, *grid.original_shape), np.float32)
        with torch.no_grad():
            scan = Scan(image, self._windows(grid.prepared_shape, 0.5), count, forward, 1, self.device)
            _sweep(scan, grid, lambda maps: maps, out)
        return out

    def patch(self, volume: Volume, labels: np.ndarray) -> Tensor:
        """The part ``[1, C, *patch]`` of a scan, prepared and on the device, in the middle of what ``labels [*S]``
        mark, or of the scan where they mark nothing."""
        image, grid = prepare_volume(volume, self.plan)
        windows = self._windows(grid.prepared_shape, 0.5, whole=False)
        marked = np.argwhere(grid.to_canonical(labels))
        share = (marked.mean(0) + 0.5) / grid.canonical_shape if len(marked) else np.full(self.plan.dims, 0.5)
        corner = []
        for axis, n in enumerate(grid.prepared_shape):
            middle = round(share[axis] * n) + windows.before[axis]
            room = windows.padded[axis] - windows.size[axis]
            corner.append(min(max(middle - windows.size[axis] // 2, 0), room))
        scan = Scan(image, windows, self.task.channels, self.answer, 1, self.device)
        return scan.cut(corner)[None].to(self.device)

    def read(self, files: Sequence[Path], missing: Sequence[int] = ()) -> Volume:
        """The files of one case, which are its channels but for the numbers ``missing``. Raises InputError when the
        model wants other channels."""
        wanted = len(self.plan.channels)
        # One file may hold all channels as a fourth axis; only a model of several channels expects that.
        return read_image(files, wanted if missing or len(files) == 1 < wanted else None, missing)

    @property
    def takes_missing(self) -> bool:
        """Whether the network answers scans of which some modalities are missing."""
        return bool(getattr(self.network, "takes_missing", False))

    def refuse_missing(self, file: str, field: str, missing: Sequence[int]) -> InputError:
        """What to raise for a scan without the modalities of these numbers."""
        names = [channel.name for channel in self.plan.channels]
        found = "no " + ", ".join(f"{names[number]} (_{number:04d})" for number in missing)
        fix = "Add the files, or predict with a model of --network fusion_unet, which takes what is there."
        return refuse(file, field, found, f"all of {', '.join(names)}, which this network needs", fix)

    @torch.inference_mode()
    def _label(
        self, image: Tensor, grid: Grid, averaging: Averaging, overlap: float, decode: Callable[[Tensor], Tensor]
    ) -> np.ndarray:
        windows = self._windows(grid.prepared_shape, overlap)
        labels = np.zeros(grid.original_shape, np.uint8)
        batch = max(1, min(self.batch, ACTIVATIONS // (math.prod(windows.size) * self._bytes_per_voxel)))
        forward = partial(self._logits, averaging=averaging)
        _sweep(Scan(image, windows, self.task.channels, forward, batch, self.device), grid, decode, labels)
        return labels

    def _windows(self, shape: tuple[int, ...], overlap: float, whole: bool = True) -> Windows:
        """One window as large as the volume where memory allows and ``whole``, else windows of the plan's patch."""
        full = tuple(math.ceil(n / stride) * stride for n, stride in zip(shape, self.strides, strict=True))
        patch = self.plan.patch
        size = full
        if not whole or math.prod(full) * self._bytes_per_voxel > ACTIVATIONS:
            size = tuple(min(n, p) for n, p in zip(full, patch, strict=True))
        # Instance normalisation needs more than one voxel on the coarsest grid.
        if size == self.strides:
            size = tuple(max(n, p) for n, p in zip(size, patch, strict=True))
        if size == self.strides:
            size = (2 * size[0], *size[1:])
        return place_windows(shape, size, overlap)

    @property
    def _bytes_per_voxel(self) -> int:
        """Estimate of what one voxel of input takes while a U-Net runs: eight full-resolution maps, and logits."""
        return (2 if self.bfloat16 else 4) * 8 * self.plan.widths[0] + 4 * 3 * self.task.channels

    def _logits(self, x: Tensor, averaging: Averaging) -> Tensor:
        """Logits of a batch of windows in float32, averaged over what the network is shown of them."""
        total: Tensor | None = None
        flips = [c for n in range(len(averaging.mirror) + 1) for c in itertools.combinations(averaging.mirror, n)]
        for flip in flips:
            axes = [axis + 2 for axis in flip]
            logits = self.answer(x.flip(axes) if axes else x)
            logits = logits.flip(axes) if axes else logits
            total = logits if total is None else total.add_(logits)
        assert total is not None
        for view in averaging.views:
            total += view.back(self.answer(view.of(x)))
        if len(flips) + len(averaging.views) > 1:
            total /= len(flips) + len(averaging.views)
        if not total.sum().isfinite():
            raise FoveateError(
                "The network answered with numbers that are not finite. Its weights are damaged, or bfloat16 is not "
                "precise enough for it: try precision float32, or train again."
            )
        return total

    def answer(self, x: Tensor) -> Tensor:
        """Logits ``[B, K, *S]`` in float32 of what lies on the device, ``[B, C, *S]``."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits: Tensor = self.network(x)
        return logits.float()

    def _mirror_axes(self, mirror: bool | Sequence[int]) -> tuple[int, ...]:
        if isinstance(mirror, bool):
            if mirror and not self.plan.mirror_axes:
                expected = "axes that the model was trained to mirror"
                raise refuse("plan.json", "mirror_axes", "none", expected, "Predict without mirroring.")
            return self.plan.mirror_axes if mirror else ()
        wrong = [axis for axis in mirror if not 0 <= axis < self.plan.dims]
        if wrong:
            raise refuse("predict", "mirror", wrong, f"axes 0 to {self.plan.dims - 1}", "Name array axes.")
        return tuple(sorted(set(mirror)))

    def _from_array(self, array: np.ndarray, spacing: Sequence[float] | None, affine: np.ndarray | None) -> Volume:
        dims = self.plan.dims
        if array.ndim not in (dims, dims + 1) or not array.size:
            raise refuse("array", "shape", array.shape, f"{dims} axes, or channels and {dims} axes", "Reshape it.")
        if affine is None:
            if spacing is None and dims == 3:
                raise refuse("array", "spacing", "none", "mm per axis", "Give spacing=(...) or affine=....")
            sizes = (1.0,) * dims if spacing is None else tuple(float(v) for v in spacing)
            if len(sizes) != dims or not all(0 < v < math.inf for v in sizes):
                raise refuse("array", "spacing", spacing, f"{dims} positive numbers in mm", "Correct it.")
            affine = np.diag([*sizes, *[1.0] * (4 - dims)])
        affine = np.asarray(affine, np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
            raise refuse("array", "affine", affine.tolist(), "an invertible 4x4 matrix of numbers", "Correct it.")
        return Volume(array if array.ndim == dims + 1 else array[None], affine)


def _sweep(scan: Scan, grid: Grid, decode: Callable[[Tensor], Tensor], out: np.ndarray) -> None:
    """Fill ``out [..., *S]``, on the grid of the input, with what ``decode`` makes of the blended windows."""
    taps, windows = way_back(grid), scan.windows
    # A single window has its logits in memory already: dividing it would only compute it again.
    budget = max(SUMS, 8 * math.prod(windows.size) * (scan.channels + 1)) if windows.single else SUMS
    axis, columns = divide(windows, taps, scan.channels, budget)
    canonical = grid.to_canonical(out)
    for column in columns:
        roll(scan, column, axis, Restorer(column, axis, taps, windows.before, decode, canonical))


def load(run: str | Path, device: str | torch.device = "auto", precision: Precision = "auto") -> Predictor:
    """The trained model of a run folder or a model folder, ready to predict on ``device``.

    Only model.json and weights.safetensors are read; a pickle (.pt, .pth, ...) is refused unopened.
    Raises InputError when a file is missing or damaged, when the weights are not those of the described network, and
    for a model that was only pre-trained.
    """
    model = load_model(find_model(Path(run)))
    if (name := model.task.get("name")) not in TASKS:
        fix = f"Give it to --init: foveate train DATA NEW_RUN --init {run}."
        raise refuse(model.folder / DESCRIPTION, "task", f"{name}: pre-trained only", "a trained segmentation", fix)
    task = build_task(model.plan)
    network = build_network(model.network, model.plan, task.channels)
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in model.state.items()}
    if wanted != found:
        key = min(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
        shape, expected = found.get(key, "nothing"), wanted.get(key, "nothing")
        fix = "The description was changed after training: restore model.json."
        raise refuse(model.folder / WEIGHTS, f"weights {key}", shape, f"{expected}, as model.json says", fix)
    network.load_state_dict(model.state)
    return Predictor(network, task, model.plan, device=device, precision=precision)
