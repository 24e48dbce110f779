"""A trained model that labels scans: ``foveate.load(run).predict("scan.nii.gz")``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveate.batches.grid import Grid
from foveate.batches.prepare import prepare_volume
from foveate.cohort.plan import Plan
from foveate.errors import refuse
from foveate.io.volume import Volume
from foveate.networks import build_network
from foveate.predict.answering import Answering, Precision, Source
from foveate.predict.detecting import BoxPredictor
from foveate.predict.model_file import DESCRIPTION, RESTORE, WEIGHTS, find_model, load_model
from foveate.predict.pieces import Tidied, keep_largest_pieces
from foveate.predict.resample import Restorer, way_back
from foveate.predict.sliding import Forward, Scan, Windows, divide, place_windows, roll
from foveate.predict.views import View, draw_views
from foveate.predict.whole import WholePredictor
from foveate.tasks import TASKS, Segmentation, Task, build_task

# Bytes that the activations of one call of the network should not exceed: fewer windows a call then.
ACTIVATIONS = 1 << 30
# Bytes for the sums of logits.
SUMS = 3 << 28


@dataclass(frozen=True)
class Averaging:
    """What an answer is averaged over, beside the image itself: mirrorings of spatial axes, and other views."""

    mirror: tuple[int, ...] = ()
    views: Sequence[View] = ()


class Predictor(Answering[Segmentation]):
    """Network, task and plan, ready to label scans on ``device``. batch: windows per call of the network, fewer where
    they would take too much memory."""

    def predict(
        self,
        source: Source,
        *,
        spacing: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        mirror: bool | Sequence[int] = False,
        views: int = 0,
        overlap: float = 0.5,
        all_pieces: bool = False,
    ) -> np.ndarray:
        """Labels of a scan on its own voxel grid: uint8 ``[*S]``.

        source: a file, the files of its channels, a Volume, or an array ``[*S]`` or ``[C, *S]``, NaN in a channel that
        is missing, if the network takes that.
        spacing: voxel size of an array in mm, whose axes then run right, anterior, superior; affine: its 4x4
        matrix instead (voxel index -> RAS mm). A 3D array needs one of them.
        mirror: average over all mirrorings of the plan's axes, or of the canonical (RAS) axes given; 2^axes times
        the work. views: average over so many turned and zoomed views beside the scan as it is, each as much work.
        overlap: share of a window that the next one covers again. all_pieces: leave out the last step, ``tidy``.

        Raises InputError when the source cannot be read or does not fit the model.
        """
        if not 0 <= overlap <= 0.9:
            raise refuse("predict", "overlap", overlap, "0 to 0.9", "0.5 is a good choice.")
        drawn = draw_views(views, self.plan.spacing, self.plan.mirror_axes, seed=0)
        averaging = Averaging(self.mirror_axes(mirror), drawn)
        image, grid = self.prepared(self.open(source, spacing, affine))
        labels = np.zeros(grid.original_shape, np.uint8)
        self._answer(image, grid, averaging, overlap, self.task.decode, labels)
        return labels if all_pieces else self.tidy(labels).labels

    def tidy(self, labels: np.ndarray) -> Tidied:
        """A label map in which every structure that the labelled cases showed in one piece is its largest piece, with
        those that are at least half as large."""
        return keep_largest_pieces(labels, self.task.one_piece)

    def predict_prepared(self, image: np.ndarray, views: Sequence[View] = (), sureness: float = 0.0) -> np.ndarray:
        """Labels of a prepared scan ``[C, *S']`` on its own grid, not tidied: uint8 ``[*S']``.

        views: averaged over beside the image itself. sureness: 255 is written where the answer is less sure than this.
        """
        labels = np.zeros(image.shape[1:], np.uint8)
        self._answer_prepared(image, views, partial(self.task.decode, sureness=sureness), labels)
        return labels

    def probabilities_prepared(self, image: np.ndarray) -> np.ndarray:
        """Probabilities of the task's channels for a prepared scan, on its own grid: float32 ``[K, *S']``."""
        values = np.zeros((self.task.channels, *image.shape[1:]), np.float32)
        self._answer_prepared(image, (), self.task.probabilities, values)
        return values

    def _answer_prepared(
        self, image: np.ndarray, views: Sequence[View], decode: Callable[[Tensor], Tensor], out: np.ndarray
    ) -> None:
        tensor = torch.from_numpy(np.array(image, np.float32))
        self._answer(tensor, Grid.unchanged(image.shape[1:]), Averaging(views=views), 0.5, decode, out)

    def maps(self, volume: Volume, count: int, forward: Forward) -> np.ndarray:
        """Other maps than logits, blended over windows as the prediction is, on the scan's own grid: float32
        ``[count, *S]``.

        forward: windows ``[B, C, *window]`` on the device -> maps ``[B, count, *window]`` float32; one at a time.
        Raises InputError when the volume does not fit the model.
        """
        image, grid = prepare_volume(volume, self.plan)
        out = np.zeros((count, *grid.original_shape), np.float32)
        with torch.no_grad():
            scan = Scan(image, self._windows(grid.prepared_shape), count, forward, 1, self.device)
            _sweep(scan, grid, lambda maps: maps, out)
        return out

    def patch(self, volume: Volume, labels: np.ndarray) -> Tensor:
        """The part ``[1, C, *patch]`` of a scan, prepared and on the device, in the middle of what ``labels [*S]``
        mark, or of the scan where they mark nothing."""
        image, grid = prepare_volume(volume, self.plan)
        return self.patch_prepared(image, grid.to_canonical(labels))

    def patch_prepared(self, image: Tensor, labels: np.ndarray) -> Tensor:
        """The same of a prepared scan ``[C, *S']``. labels: on its own grid, or another of the same field."""
        windows = self._windows(tuple(image.shape[1:]))
        marked = np.argwhere(labels)
        share = (marked.mean(0) + 0.5) / labels.shape if len(marked) else np.full(self.plan.dims, 0.5)
        corner = []
        for axis, n in enumerate(image.shape[1:]):
            middle = round(share[axis] * n) + windows.before[axis]
            room = windows.padded[axis] - windows.size[axis]
            corner.append(min(max(middle - windows.size[axis] // 2, 0), room))
        scan = Scan(image, windows, self.task.channels, self.answer, 1, self.device)
        return scan.cut(corner)[None].to(self.device)

    @torch.inference_mode()
    def _answer(
        self,
        image: Tensor,
        grid: Grid,
        averaging: Averaging,
        overlap: float,
        decode: Callable[[Tensor], Tensor],
        out: np.ndarray,
    ) -> None:
        """Fill ``out [..., *S]``, on the grid of the input, with what ``decode`` makes of the logits."""
        windows = self._windows(grid.prepared_shape, overlap)
        batch = max(1, min(self.batch, ACTIVATIONS // (math.prod(windows.size) * self._bytes_per_voxel)))
        forward = partial(self._logits, averaging=averaging)
        _sweep(Scan(image, windows, self.task.channels, forward, batch, self.device), grid, decode, out)

    def _windows(self, shape: tuple[int, ...], overlap: float = 0.5) -> Windows:
        """Windows of the plan's patch, whatever memory would allow: instance normalisation takes its statistics from
        the field that it is shown, and the weights were fitted to those of a patch."""
        return place_windows(shape, self.plan.patch, overlap)

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
        return self.finite(total)


def _sweep(scan: Scan, grid: Grid, decode: Callable[[Tensor], Tensor], out: np.ndarray) -> None:
    """Fill ``out [..., *S]``, on the grid of the input, with what ``decode`` makes of the blended windows."""
    taps, windows = way_back(grid), scan.windows
    # A single window has its logits in memory already: dividing it would only compute it again.
    budget = max(SUMS, 8 * math.prod(windows.size) * (scan.channels + 1)) if windows.single else SUMS
    axis, columns = divide(windows, taps, scan.channels, budget)
    canonical = grid.to_canonical(out)
    for column in columns:
        roll(scan, column, axis, Restorer(column, axis, taps, windows.before, decode, canonical))


AnyPredictor = Predictor | WholePredictor | BoxPredictor
# Of each task; those that are not here answer nothing that can be written.
PREDICTORS: dict[str, Callable[..., AnyPredictor]] = {
    "segmentation": Predictor,
    "classification": WholePredictor,
    "regression": WholePredictor,
    "detection": BoxPredictor,
}


def build_predictor(network: nn.Module, task: Task, plan: Plan, **options: Any) -> AnyPredictor:
    """The predictor of a plan's task. options: device, precision, batch."""
    return PREDICTORS[plan.task](network, task, plan, **options)


def load(run: str | Path, device: str | torch.device = "auto", precision: Precision = "auto") -> AnyPredictor:
    """The trained model of a run folder or a model folder, ready to predict on ``device``.

    Only model.json and weights.safetensors are read; a pickle (.pt, .pth, ...) is refused unopened.
    Raises InputError when a file is missing or damaged, when the weights are not those of the described network, and
    for a model that was only pre-trained.
    """
    model = load_model(find_model(Path(run)))
    if (name := model.task.get("name")) not in TASKS or name not in PREDICTORS:
        fix = f"Give it to --init: foveate train DATA NEW_RUN --init {run}."
        raise refuse(model.folder / DESCRIPTION, "task", f"{name}: pre-trained only", "a trained model", fix)
    task = build_task(model.plan)
    with torch.device("meta"):  # a description of other weights may be of more of them than memory holds
        described = build_network(model.network, model.plan, task.channels)
    wanted = {key: tuple(value.shape) for key, value in described.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in model.state.items()}
    if wanted != found:
        key = min(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
        shape, expected = found.get(key, "nothing"), wanted.get(key, "nothing")
        fix = "The description was changed after training: restore model.json."
        raise refuse(model.folder / WEIGHTS, f"weights {key}", shape, f"{expected}, as model.json says", fix)
    network = build_network(model.network, model.plan, task.channels)
    network.load_state_dict(model.state)
    try:
        task.restore(model.task)
    except (TypeError, ValueError) as error:
        raise refuse(model.folder / DESCRIPTION, "task", error, f"what {name} keeps", RESTORE) from None
    return build_predictor(network, task, model.plan, device=device, precision=precision)
