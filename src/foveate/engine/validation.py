"""What is measured on held-back cases during training: it is shown and chooses nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from foveate.batches.prepare import PreparedCohort
from foveate.engine.schedule import Schedule
from foveate.methods import DeepBelief
from foveate.metrics.detection import ImageBoxes, average_precision, match_class, match_sure
from foveate.predict.detecting import BoxPredictor
from foveate.predict.predictor import AnyPredictor, Predictor
from foveate.predict.whole import WholePredictor


class Validation:
    """Mean Dice of a predictor of held-back cases, on the prepared grid. errors: 1 - Dice of each, at the last call."""

    def __init__(self, predictor: Predictor, prepared: PreparedCohort, cases: Iterable[str]) -> None:
        self.predictor = predictor
        self.cases = [prepared[name] for name in cases]
        self.errors: dict[str, float] = {}

    def __call__(self) -> dict[str, float]:
        scores = []
        for case in self.cases:
            assert case.label is not None
            predicted = self.predictor.tidy(self.predictor.predict_prepared(case.image)).labels
            scores.append(self.predictor.task.mean_dice(predicted, np.array(case.label)))
            self.errors[case.id] = 1 - scores[-1]
        return {"dice": float(np.nanmean(scores))}


class WholeValidation:
    """What the task scores of a predictor's answers for held-back cases. errors: of each, at the last call."""

    def __init__(self, predictor: WholePredictor, prepared: PreparedCohort, cases: Iterable[str]) -> None:
        self.predictor = predictor
        self.cases = [prepared[name] for name in cases]
        self.labels = np.stack([case.target for case in self.cases if case.target is not None])  # [N, K]
        self.errors: dict[str, float] = {}

    def logits(self, mirror: Sequence[int] | None = None) -> np.ndarray:
        """``[N, K]``, in batches, so that no more than one is in memory. mirror: see ``WholePredictor.logits``."""
        step = self.predictor.batch
        parts = (self.cases[start : start + step] for start in range(0, len(self.cases), step))
        return np.concatenate([self.predictor.logits([case.image for case in part], mirror) for part in parts])

    def __call__(self) -> dict[str, float]:
        task, logits = self.predictor.task, self.logits(mirror=())  # for the eye: half the work will do
        self.errors = {c.id: float(e) for c, e in zip(self.cases, task.errors(logits, self.labels), strict=True)}
        return task.score(logits, self.labels)


class FreeEnergyGap:
    """Free energy of scans held back less that of as many scans that teach, by visible unit of the layer in training.

    It grows as a machine learns its scans by heart (Hinton, "A practical guide to training restricted Boltzmann
    machines", 2012, sec. 6); it need not be zero before. Of each scan the middle is looked at, a patch of it.
    """

    SCANS = 16  # on each side, at most

    def __init__(
        self,
        method: DeepBelief,
        schedule: Schedule,
        prepared: PreparedCohort,
        teaching: Sequence[str],
        held: Sequence[str],
        device: torch.device,
    ) -> None:
        self.method, self.schedule, self.prepared, self.device = method, schedule, prepared, device
        count = min(len(teaching), len(held), self.SCANS)
        # Spread over the sorted ids, which may be in the order of sites or dates.
        self.teaching, self.held = (
            [names[i * len(names) // count] for i in range(count)] for names in (teaching, held)
        )

    def __call__(self) -> dict[str, float]:
        depth = self.method.layer(self.schedule.progress)
        teaching, held = self.mean(self.teaching, depth), self.mean(self.held, depth)
        gap = held - teaching
        return {"layer": depth + 1, "free_energy": teaching, "free_energy_held_back": held, "free_energy_gap": gap}

    @torch.no_grad()
    def mean(self, names: Sequence[str], depth: int) -> float:
        energies = [float(self.method.energy(self.method.below(self.middle(name), depth), depth)) for name in names]
        return sum(energies) / len(energies)

    def middle(self, name: str) -> torch.Tensor:
        """``[1, C, *S]``, S the patch or, along a shorter axis, the scan."""
        image, patch = self.prepared[name].image, self.method.network.decoder.built_from[0].patch  # type: ignore[union-attr, index]
        starts = [max((n - p) // 2, 0) for n, p in zip(image.shape[1:], patch, strict=True)]
        cut = tuple(slice(start, start + p) for start, p in zip(starts, patch, strict=True))
        return torch.from_numpy(np.array(image[(slice(None), *cut)], np.float32))[None].to(self.device)


class BoxValidation:
    """Mean average precision at an IoU of 0.5 of a predictor's boxes in held-back cases, on the prepared grid.

    errors: of each case, how many boxes are missed or false among those that count, at the last call."""

    def __init__(self, predictor: BoxPredictor, prepared: PreparedCohort, cases: Iterable[str]) -> None:
        self.predictor, self.cases = predictor, [prepared[name] for name in cases]
        self.errors: dict[str, float] = {}

    def __call__(self) -> dict[str, float]:
        images = []
        for case in self.cases:
            assert case.target is not None
            real = case.target[case.target[:, -1] >= 0]  # what is ignored counts as background here
            found = self.predictor.predict_prepared(case.image)
            answer = found.boxes.numpy(), found.classes.numpy(), found.scores.numpy()
            truth = real[:, :-1], real[:, -1].astype(int), np.zeros(len(real), bool)
            images.append(ImageBoxes(case.id, case.id, *truth, *answer))
        classes = range(len(self.predictor.plan.classes))
        for item in images:
            sure = match_sure(item, classes)
            self.errors[item.case] = sure.missed + sure.false
        each = [float(average_precision(match_class(images, number, (0.5,)))[0, 0]) for number in classes]
        return {"ap50": float(np.nanmean(each))} if np.isfinite(each).any() else {}


def validation(
    predictor: AnyPredictor, prepared: PreparedCohort, cases: Sequence[str]
) -> Validation | WholeValidation | BoxValidation:
    """What measures held-back cases by the predictor's own task."""
    if isinstance(predictor, BoxPredictor):
        return BoxValidation(predictor, prepared, cases)
    if isinstance(predictor, WholePredictor):
        return WholeValidation(predictor, prepared, cases)
    return Validation(predictor, prepared, cases)


def case_errors(validate: object) -> dict[str, float]:
    """How wrong each case was at the last call of what ``validation`` gave, in its own measure; {} of anything else."""
    if not isinstance(validate, Validation | WholeValidation | BoxValidation):
        return {}
    if not validate.errors:  # a training that goes on after its last validation
        validate()
    return validate.errors
