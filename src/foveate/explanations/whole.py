"""``foveate explain`` for models that answer for whole images: evidence for each class, and where most of it lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.cohort.cohort import Case
from foveate.errors import InputError, refuse
from foveate.explanations.image_maps import ImageExplainer, class_names, relative
from foveate.explanations.localise import Threshold, boxes
from foveate.explanations.maps import MapName
from foveate.explanations.work import Shown, Work, stacked
from foveate.io import read_label, write_label
from foveate.io.files import grid_difference
from foveate.io.volume import Volume
from foveate.predict.whole import WholePredictor
from foveate.tasks import Classification, Regression
from foveate.text import closest

NO_EVIDENCE = (
    "Only --network attention_cnn says what each place adds to the answer; of this network nothing is located."
)


@torch.no_grad()
def evidence(predictor: WholePredictor, volume: Volume, of: str) -> np.ndarray:
    """For a class (``value`` of regression) on the scan's own grid: float32 ``[*S]``. See ``image_maps``.

    The predictor's network must have ``evidence``. Raises InputError when the volume does not fit the model.
    """
    channel, network = class_names(predictor.task).index(of), predictor.network

    def forward(x: Tensor) -> Tensor:
        found = relative(network.evidence(x).float(), predictor.task.exclusive)  # type: ignore[operator]
        return found[:, channel : channel + 1]

    found: np.ndarray = predictor.maps(volume, forward)[0]
    return found


def answer_lines(task: Classification | Regression, answer: np.ndarray) -> list[str]:
    """The likeliest classes with their probabilities, or the number with its interval, for people."""
    if isinstance(task, Classification):
        return [f"{task.names[number]} {answer[number]:.2f}" for number in np.argsort(-answer, kind="stable")[:3]]
    value, low, high = ("" if math.isnan(number) else task.text(number, 4) for number in answer)
    return [f"{value} ({low} to {high})" if low else value]


class WholeWork(Work):
    """The same for models that answer for whole images."""

    explainer_type = ImageExplainer
    predictor: WholePredictor

    def __init__(
        self,
        predictor: WholePredictor,
        folder: Path,
        layers: Sequence[str],
        of: str | None,
        cases: Sequence[Case],
        masks: Path | None,
    ) -> None:
        super().__init__(predictor, folder, layers)
        names = class_names(predictor.task)
        self.evident = hasattr(predictor.network, "evidence")
        if of is not None and of not in names:
            raise refuse("explain", "of", of, f"one of {', '.join(names)}", closest(of, names))
        if not self.evident:
            self.remarks.append(NO_EVIDENCE)
            if masks is not None:
                raise refuse("explain", "masks", masks, "a network whose evidence can be located", NO_EVIDENCE)
        self.of = of
        self.unfounded: set[str] = set()  # classes of which nothing was located, because their evidence fails its check
        self.threshold = self._threshold(cases, masks) if masks is not None else Threshold()

    def patch(self, volume: Volume, answer: np.ndarray) -> Tensor:
        return self.predictor.place(self.predictor.prepare(volume))[None].to(self.predictor.device)

    def maps(self, volume: Volume, names: list[MapName]) -> np.ndarray:
        return self.predictor.maps(volume, partial(stacked, self.explainer, names))

    def show(self, case: Case, volume: Volume, answer: np.ndarray) -> Shown:
        task = self.predictor.task
        names = class_names(task)
        if isinstance(task, Classification):
            of = self.of or names[int(answer.argmax())]
            said = {name: round(float(p), 6) for name, p in zip(names, answer, strict=True)}
            answered = said[of] >= (max(said.values()) if task.exclusive else 0.5)
        else:
            of, answered = names[0], True
            said = dict(zip(("value", "low", "high"), (float(v) for v in answer), strict=True))
        lines = answer_lines(task, answer)
        if not self.evident:
            return Shown(np.zeros(volume.shape, np.uint8), {}, lines, {"answer": said})
        if any(
            (name.kind, name.of) == ("evidence", of) and self.checks[name].verdict == "fails" for name in self.checks
        ):
            self.unfounded.add(of)
            said_lines = [*lines, "nothing located: its evidence", "FAILS the randomisation check"]
            return Shown(np.zeros(volume.shape, np.uint8), {}, said_lines, {"answer": said})
        values = evidence(self.predictor, volume, of)
        mask = self.threshold.mask(values)
        file = f"{case.id}/located{'.nii.gz' if volume.dims == 3 else '.png'}"
        write_label(self.folder / file, mask.astype(np.uint8), volume)
        located = {"of": of, "mask": file, "threshold": self.threshold.of(values), "boxes": boxes(mask, values)}
        marked = f"most evidence for {of}" + ("" if answered else ", which is not the answer")
        members: dict[str, tuple[int, ...]] = {marked: (1,)}
        return Shown(mask.astype(np.uint8), members, lines, {"answer": said, "located": located})

    @property
    def notes(self) -> list[str]:
        if not self.unfounded:
            return super().notes
        of = ", ".join(sorted(self.unfounded))
        return [*super().notes, f"Nothing is located for {of}: evidence that fails the check points at nothing."]

    def summary(self) -> dict[str, Any]:
        return {**super().summary(), **({"threshold": self.threshold.summary()} if self.evident else {})}

    def _threshold(self, cases: Sequence[Case], folder: Path) -> Threshold:
        """Chosen on the cases that have a mask in the folder. Raises InputError if none has, or one is on another
        grid."""
        maps, masks = [], []
        for case in cases:
            files = [folder / f"{case.id}{suffix}" for suffix in (".nii.gz", ".nii", ".png", ".tif")]
            file = next((file for file in files if file.is_file()), None)
            if file is None:
                continue
            try:
                volume = self.predictor.read(case.images)
            except InputError:  # explain names it, with the others that cannot be read
                continue
            mask = read_label(file)
            if difference := grid_difference(volume, mask):
                raise InputError([difference])
            if mask.array.any():
                of = self.of or class_names(self.predictor.task)[int(self.predictor.predict(volume).argmax())]
                maps.append(evidence(self.predictor, volume, of))
                masks.append(mask.array[0] > 0)
        if not maps:
            found = f"no mask of the {len(cases)} cases that marks anything"
            raise refuse(folder, "masks", found, "CASE.nii.gz or CASE.png, above 0 where the structure is", "Add some.")
        return Threshold.chosen(maps, masks)
