"""What a training learns from: which cases teach, and how."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.cohort.cohort import Cohort
from foveate.cohort.split import Split, hold_back_images, split_cases
from foveate.config import AugmentConfig, Config
from foveate.methods import Method
from foveate.report.run import pictured


@dataclass(frozen=True)
class Lesson:
    """cohort: the cases that are prepared. donors: those whose masks teach without their images."""

    cohort: Cohort
    split: Split
    augment: AugmentConfig
    donors: tuple[str, ...] = ()


def lesson_of(cohort: Cohort, settings: Config, kind: type[Method]) -> Lesson:
    """What ``kind`` makes of the cases. Raises InputError where too few have labels to hold any back."""
    split, augment = split_cases(cohort, settings.seed, settings.validation), settings.augment
    if kind.learns_boxes:
        boxed = {case.id for case in cohort.unlabelled if case.boxes}
        taught = split.with_boxes(boxed, settings.method.paired_masks)
        augment = augment.model_copy(update={"rotation_degrees": 0.0, "elastic_p": 0.0})  # a turned box is no box
        return Lesson(cohort.only({*split.train, *taught.validation, *taught.unlabelled}), taught, augment, split.train)
    if not kind.learns_labels:
        split = hold_back_images(split, cohort, settings.seed) if kind.watches_images else split.without_labels()
        return Lesson(cohort.keep_labels(()), split, augment)
    if not kind.uses_unlabelled:  # those that teach nobody are prepared for the page alone
        cohort = cohort.only({*split.train, *split.validation, *(name for name, _ in pictured(split, {}))})
    return Lesson(cohort, split, augment)
