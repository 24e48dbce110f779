"""What predictors of every task share: a network on a device, and how files and arrays reach it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from foveate.batches.grid import Grid
from foveate.batches.prepare import prepare_volume
from foveate.cohort.plan import Plan
from foveate.errors import FoveateError, InputError, Problem, refuse
from foveate.io import read_image
from foveate.io.volume import Volume
from foveate.layers import present
from foveate.predict.device import bfloat16_pays, pick_device
from foveate.tasks import Task

Precision = Literal["auto", "float32", "bfloat16"]
Source = str | Path | Sequence[Path] | np.ndarray | Volume
Kind = TypeVar("Kind", bound=Task)


class Answering(Generic[Kind]):
    """Network, task and plan, ready to answer on ``device``.

    network: in evaluation ``[B, C, *S] -> logits [B, K, ...]`` for S divisible by the product of the strides.
    precision: ``auto`` takes bfloat16 where the processor has units for it. batch: inputs per call of the network,
    as many as the plan's batch by default.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Kind,
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
        self.batch = batch or plan.batch

    def open(self, source: Source, spacing: Sequence[float] | None, affine: np.ndarray | None) -> Volume:
        """What ``predict`` was given, as a volume: a file, the files of its channels, an array, or a volume itself."""
        if isinstance(source, np.ndarray):
            return self._from_array(source, spacing, affine)
        if isinstance(source, Volume):
            return source
        return self.read([Path(source)] if isinstance(source, str | Path) else [Path(file) for file in source])

    def prepared(self, volume: Volume) -> tuple[Tensor, Grid]:
        """The image as the network takes it, ``[C, *S']``, and its grid. Raises InputError when it does not fit the
        model, or lacks a modality that the network needs."""
        image, grid = prepare_volume(volume, self.plan)
        if not self.takes_missing and (absent := (~present(image[None])[0]).nonzero()[:, 0].tolist()):
            raise self.refuse_missing(str(volume.path or "image"), "modalities", absent)
        return image, grid

    def read(self, files: Sequence[Path], missing: Sequence[int] = (), said: list[Problem] | None = None) -> Volume:
        """The files of one case, which are its channels but for the numbers ``missing``. said: takes what is no more
        than a warning. Raises InputError when the model wants other channels."""
        wanted = len(self.plan.channels)
        # One file may hold all channels as a fourth axis; only a model of several channels expects that.
        return read_image(files, wanted if missing or len(files) == 1 < wanted else None, missing, said)

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

    def answer(self, x: Tensor) -> Tensor:
        """Logits ``[B, K, ...]`` in float32 of what lies on the device, ``[B, C, *S]``."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits: Tensor = self.network(x)
        return logits.float()

    @staticmethod
    def finite(logits: Tensor) -> Tensor:
        """The same logits. Raises FoveateError when they are no numbers."""
        if not logits.sum().isfinite():
            raise FoveateError(
                "The network answered with numbers that are not finite. Its weights are damaged, or bfloat16 is not "
                "precise enough for it: try precision float32, or train again."
            )
        return logits

    def mirror_axes(self, mirror: bool | Sequence[int]) -> tuple[int, ...]:
        """The axes to mirror: the plan's, or those given. Raises InputError for axes that cannot be mirrored."""
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
