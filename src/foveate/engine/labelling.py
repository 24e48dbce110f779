"""Pseudo-labels of whole unlabelled scans: made between two steps, kept in the run folder, given to the sampler."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from foveate.batches.cache import PreparedCase, PreparedCohort, write_array
from foveate.batches.prepare import sample_voxels
from foveate.batches.sampler import Sampler
from foveate.engine.schedule import Schedule
from foveate.methods import Method
from foveate.predict.pieces import open_smaller_pieces
from foveate.predict.predictor import AnyPredictor, Predictor
from foveate.predict.views import View, draw_views
from foveate.predict.whole import WholePredictor

VIEWS = 4  # of each scan that a patch holds, beside the scan as it is
SHARE = 0.06  # of a bound in seconds, that one round may take: scans that it does not reach keep what they had


class Labelling:
    """Has the unlabelled scans labelled by the method's average, in as many rounds as the method wants.

    The first round is made at the method's start, the others follow evenly. folder: one folder a round, because a run
    that goes on from an older checkpoint needs the round before; every file in them was written whole, so that a round
    that was cut short goes on where it stopped. Where the labels show a structure in one piece, what a pseudo-label has
    apart from the largest teaches nothing.

    A method with a memory gets, in place of labels, the mean probabilities of all rounds, ``[K + 1, *S']``: the last
    channel is 1, or 0 where they are less sure than the method wants. Of a map in 255ths (uint8).
    """

    def __init__(
        self,
        folder: Path,
        predictor: AnyPredictor,
        prepared: PreparedCohort,
        sampler: Sampler,
        method: Method,
        schedule: Schedule,
    ) -> None:
        self.folder, self.predictor, self.prepared = folder, predictor, prepared
        self.sampler, self.method, self.schedule = sampler, method, schedule

    @property
    def due(self) -> bool:
        wanted, start = self.method.labellings, self.method.begins
        if (
            self.sampler.round >= wanted
            or not self.sampler.unlabelled
            or not self.method.weight(self.schedule.progress)
        ):
            return False
        return self.schedule.progress >= start + (1 - start) * self.sampler.round / wanted

    def make(self, between: Callable[[int, int], None]) -> None:
        """The next round. ``between`` is told how many scans are labelled, of how many, after each of them."""
        number, started = self.sampler.round + 1, self.schedule.now()
        names = sorted(self.sampler.unlabelled)
        random.Random(f"labelling {number}").shuffle(names)  # which scans a short time reaches
        views = draw_views(VIEWS, self.predictor.plan.spacing, self.predictor.plan.mirror_axes, number)
        for done, name in enumerate(names, start=1):
            if not self._labelled(name, number).label_path.exists():  # type: ignore[union-attr]
                self._label(name, number, views)
            between(done, len(names))
            if self.schedule.seconds and self.schedule.now() - started > SHARE * self.schedule.seconds:
                break
        self.use(number)

    def use(self, rounds: int) -> None:
        """Give the newest label of every scan, of the first ``rounds`` rounds, to the sampler."""
        found = {}
        for name in self.sampler.unlabelled:
            cases = (self._labelled(name, number) for number in range(rounds, 0, -1))
            if newest := next((case for case in cases if case.label_path.exists()), None):  # type: ignore[union-attr]
                found[name] = newest
        # Labels that somebody deleted are made again, by the average as it is now.
        self.sampler.round, self.sampler.pseudo = rounds if found else 0, found

    def remove(self) -> None:
        """Training is over: nobody needs the labels any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _labelled(self, name: str, number: int) -> PreparedCase:
        case = self.prepared[name]
        stem = self.folder / f"round-{number}" / case.image_path.stem
        voxels = None if self.method.memory else stem.with_suffix(".voxels.npy")
        return replace(case, label_path=stem.with_suffix(".label.npy"), voxels_path=voxels)

    def _label(self, name: str, number: int, views: list[View]) -> None:
        case = self._labelled(name, number)
        assert case.label_path is not None
        case.label_path.parent.mkdir(parents=True, exist_ok=True)
        if self.method.memory:
            labels = self._remember(name, number, self.method.memory)
        elif isinstance(self.predictor, WholePredictor):
            logits = torch.from_numpy(self.predictor.logits([case.image], views=views))
            labels = self.predictor.task.decode(logits, self.method.sureness).numpy()[0]
        else:
            assert isinstance(self.predictor, Predictor)  # no method that serves boxes has whole scans labelled
            # The windows of a larger scan lose their corners when they are turned: answers are worse.
            fits = all(n <= size for n, size in zip(case.shape, self.predictor.plan.patch, strict=True))
            labels = self.predictor.predict_prepared(case.image, views if fits else (), self.method.sureness)
            labels = open_smaller_pieces(labels, self.predictor.task.one_piece)
            assert case.voxels_path is not None
            write_array(case.voxels_path, sample_voxels(labels))
        write_array(case.label_path, labels)  # last: it is what makes the case labelled

    def _remember(self, name: str, number: int, memory: float) -> np.ndarray:
        """The mean of this round's answer, of weight 1, and of those before, of weights memory, memory^2, ..."""
        predictor, image = self.predictor, self.prepared[name].image
        if isinstance(predictor, WholePredictor):
            mean = predictor.task.probabilities(torch.from_numpy(predictor.logits([image]))).numpy()[0]
        else:
            assert isinstance(predictor, Predictor)
            mean = predictor.probabilities_prepared(image)
        unit = 255 if mean.ndim > 1 else 1
        rounds = (self._labelled(name, earlier) for earlier in range(1, number))
        before = [case for case in rounds if case.label_path.exists()]  # type: ignore[union-attr]
        if before:
            remembered = before[-1].label
            assert remembered is not None
            share = (1 - memory) / (1 - memory ** (len(before) + 1))
            mean = share * mean + (1 - share) / unit * remembered[:-1]
        known = predictor.task.sureness(torch.from_numpy(mean)[None])[0].numpy() >= self.method.sureness
        answer = np.concatenate([mean, known], dtype=np.float32)
        return answer if unit == 1 else (answer * unit).round().astype(np.uint8)
