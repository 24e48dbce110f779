"""The plan: how scans are prepared and how large the network is. Written as plan.json; may be edited."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from foveate.cohort.cohort import TaskName
from foveate.config import RegressionLoss, Strict
from foveate.errors import InputError, invalid, refuse
from foveate.files import write_atomic

Normalisation = Literal["ct", "zscore", "unit"]


def normalisation_of(name: str, dims: int, channels: int, low: float, high: float) -> Normalisation:
    """CT by its name or its values (air far below zero); pictures of 8 bits by their range; else robust z-score.

    low, high: percentiles 0.5 and 99.5 of the cohort.
    """
    if dims == 3 and (name.upper() == "CT" or low < -500):
        return "ct"
    if dims == 2 and channels > 1 and low >= 0 and 1 < high <= 255:
        return "unit"
    return "zscore"


class ChannelPlan(Strict):
    """How one channel is normalised.

    ct: clip to [lower, upper] HU (cohort foreground percentiles 0.5 and 99.5), subtract mean, divide by std.
    zscore: per image, clip to its own percentiles 0.5 and 99.5, subtract the mean, divide by the deviation.
    unit: divide by 255 and shift to [-1, 1] (pictures of 8 bits a channel).
    """

    name: str
    normalisation: Normalisation
    lower: float = 0.0
    upper: float = 1.0
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)


class Plan(Strict):
    """Everything that prediction needs to know about preparation, and the shape of the network.

    spacing: target voxel size in mm per axis of the canonical (RAS) volume; pixels for pictures.
    patch: voxels per axis that one training sample covers. batch: samples per step.
    classes: foreground name -> label value or the values that a region joins. ignore: value without information.
    tree: node of the label tree -> the classes and nodes that it divides into; empty without a tree.
    widths: channels per stage; strides: down-sampling per stage and axis (the first is 1).
    task: what is predicted. whole: one patch is the whole image: a picture is resampled isotropically until it fits,
        and padded; a volume keeps its voxel size in mm and lies in the middle.
    exclusive: classes exclude each other. class_weights: of each class in the loss, against imbalance.
    target_mean, target_std: of the numbers to predict, over the labelled cases. loss: of regression.
    """

    dims: Literal[2, 3]
    spacing: tuple[PositiveFloat, ...]
    patch: tuple[PositiveInt, ...]
    batch: int = Field(ge=1)
    channels: tuple[ChannelPlan, ...]
    classes: dict[str, int | tuple[int, ...]]
    ignore: int | None = None
    tree: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    mirror_axes: tuple[int, ...] = ()
    widths: tuple[PositiveInt, ...] = Field(min_length=1)
    strides: tuple[tuple[PositiveInt, ...], ...]
    step_seconds: float | None = None
    task: TaskName = "segmentation"
    whole: bool = False
    exclusive: bool = True
    class_weights: dict[str, float] = Field(default_factory=dict)
    target_mean: float = 0.0
    target_std: float = Field(default=1.0, gt=0)
    loss: RegressionLoss = "gaussian"

    @model_validator(mode="after")
    def _fits_together(self) -> Plan:
        lengths = {
            "spacing": self.spacing,
            "patch": self.patch,
            **{f"strides {i}": s for i, s in enumerate(self.strides)},
        }
        for name, numbers in lengths.items():
            if len(numbers) != self.dims:
                raise ValueError(f"{name} needs a number for each of {self.dims} axes")
        if len(self.widths) != len(self.strides):
            raise ValueError("widths and strides need an entry for each stage")
        if any(not 0 <= axis < self.dims for axis in self.mirror_axes):
            raise ValueError(f"mirror_axes are numbers from 0 to {self.dims - 1}")
        return self

    @property
    def fits(self) -> bool:
        """Whether images are resampled until they fit the patch."""
        return self.whole and self.dims == 2

    @property
    def regions(self) -> bool:
        """True when classes overlap (some class joins several label values); then each has a sigmoid of its own."""
        return any(isinstance(value, tuple) for value in self.classes.values())

    def write(self, path: Path) -> None:
        """As JSON to read and edit, whole or not at all. Raises DiskFull."""
        write_atomic(path, json.dumps(self.model_dump(mode="json"), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Raises InputError naming each field of the file that cannot be used."""
        try:
            plan = cls.model_validate_json(path.read_text(encoding="utf-8-sig"))
        except ValidationError as error:
            raise InputError(invalid(path, item, "Correct plan.json.") for item in error.errors()) from None
        except (OSError, UnicodeDecodeError) as error:
            found = getattr(error, "strerror", None) or error
            raise refuse(path, "file", found, "a readable plan.json", "Restore it, or train again.") from None
        steps = tuple(math.prod(along) for along in zip(*plan.strides, strict=True))
        if any(n % step for n, step in zip(plan.patch, steps, strict=True)):
            expected = f"multiples of {steps}, the products of the strides"
            raise refuse(path, "patch", plan.patch, expected, "Correct plan.json.")
        return plan
