"""Answers for whole images: classes with their probabilities, or a number with its interval."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from foveate.batches.grid import resample
from foveate.batches.prepare import prepare_volume
from foveate.io.volume import Volume
from foveate.predict.answering import Answering, Source
from foveate.predict.views import View, draw_views
from foveate.tasks import Classification, Regression


class WholePredictor(Answering[Classification | Regression]):
    """Shows the network each image in one patch. batch: images per call of the network."""

    def predict(
        self,
        source: Source,
        *,
        spacing: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        mirror: bool | Sequence[int] = True,
        views: int = 0,
    ) -> np.ndarray:
        """Probabilities ``[K]`` of the plan's classes in order, calibrated; of regression number, low and high.

        source, spacing, affine: as for a segmentation (``Predictor.predict``). mirror: average over all mirrorings of
        the plan's axes, or of the axes given. views: and over so many turned and zoomed views, each as much work.
        Raises InputError when the source does not fit the model.
        """
        drawn = draw_views(views, self.plan.spacing, self.plan.mirror_axes, seed=0)
        logits = self.logits([self.prepare(self.open(source, spacing, affine))], self._axes(mirror), drawn)
        answer: np.ndarray = self.task.answers(logits)[0]
        return answer

    def prepare(self, volume: Volume) -> np.ndarray:
        """The image as ``logits`` takes it, ``[C, *S']``. Raises InputError when it does not fit the model."""
        return self.prepared(volume)[0].numpy()

    @torch.inference_mode()
    def logits(
        self, images: Sequence[np.ndarray], mirror: Sequence[int] | None = None, views: Sequence[View] = ()
    ) -> np.ndarray:
        """Float32 ``[N, K]`` of prepared images ``[C, *S']``, averaged over mirrorings of axes (those of the plan, if
        None) and over views."""
        axes = self.plan.mirror_axes if mirror is None else tuple(mirror)
        flips = self._flips(axes)
        found = [np.zeros((0, self.task.channels), np.float32)]
        for start in range(0, len(images), self.batch):
            x = torch.stack([self.place(image) for image in images[start : start + self.batch]]).to(self.device)
            answers = [self.answer(x.flip(flip) if flip else x) for flip in flips]
            answers += [self.answer(view.of(x)) for view in views]
            found.append(self.finite(torch.stack(answers).mean(0)).cpu().numpy())
        return np.concatenate(found)

    def maps(self, volume: Volume, forward: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Maps of the image on the scan's own grid, float32 ``[N, *S]``; 0 where the patch does not reach.

        forward: ``[1, C, *patch]`` on the device -> maps ``[1, N, *patch]``. Averaged over the mirrorings that the
        answer is averaged over, so that what adds up for each adds up for the mean.
        """
        image, grid = prepare_volume(volume, self.plan)
        x = self.place(image.numpy())[None].to(self.device)
        found = torch.stack([forward(x.flip(axes)).flip(axes) for axes in self._flips(self.plan.mirror_axes)]).mean(0)
        here, there = self.overlap(grid.prepared_shape)
        maps = torch.zeros(found.shape[1], *grid.prepared_shape)
        maps[(slice(None), *here)] = found[0][(slice(None), *there)].cpu()
        out = np.zeros((len(maps), *grid.original_shape), np.float32)
        grid.to_canonical(out)[...] = resample(maps, grid.canonical_shape).numpy()
        return out

    def place(self, image: np.ndarray) -> Tensor:
        """The image in the middle of a patch, ``[C, *patch]`` float32: padded with zeros as in training, or cut."""
        out = torch.zeros(len(image), *self.plan.patch)
        here, there = self.overlap(image.shape[1:])
        out[(slice(None), *there)] = torch.from_numpy(np.array(image[(slice(None), *here)], np.float32))
        return out

    def overlap(self, shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The part of an image of this shape that lies in the patch, and where in the patch it lies."""
        here, there = [], []
        for n, p in zip(shape, self.plan.patch, strict=True):
            start = n // 2 - p // 2
            low, high = max(start, 0), min(start + p, n)
            here.append(slice(low, high))
            there.append(slice(low - start, high - start))
        return tuple(here), tuple(there)

    @staticmethod
    def _flips(axes: Sequence[int]) -> list[list[int]]:
        """Axes of a batch to flip, for every mirroring of spatial ``axes``; none first."""
        return [[a + 2 for a in flip] for n in range(len(axes) + 1) for flip in itertools.combinations(axes, n)]

    def _axes(self, mirror: bool | Sequence[int]) -> tuple[int, ...]:
        """As for a segmentation, but a plan that mirrors nothing is no reason to refuse: True is the default."""
        return () if mirror is True and not self.plan.mirror_axes else self.mirror_axes(mirror)
