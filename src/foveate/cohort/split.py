"""Which labelled cases teach and which are held back, never splitting a patient."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from foveate.cohort.cohort import Cohort
from foveate.errors import refuse

FEWEST = 20  # labelled cases from which "auto" holds some back
SHARE = 10  # one patient in ten is held back then
JOINED = ";"  # of several classes of one case


@dataclass(frozen=True)
class Split:
    """Case ids, sorted. No patient of ``validation`` has a case in ``train`` or ``unlabelled``.

    train: labelled cases that teach. validation: labelled cases held back. unlabelled: cases without label that may
    be used in training. notes: what the person who trains should know.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    unlabelled: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def without_labels(self) -> Split:
        """The same cases, all of them unlabelled; what validation holds back is no part of it.

        So a run with labels that starts from one without, by the same seed, holds back scans that neither has seen.
        """
        images = tuple(sorted((*self.train, *self.unlabelled)))
        held = f" {len(self.validation)} that validation holds back are left out." if self.validation else ""
        return Split((), (), images, (f"Labels are not used: {len(images)} scans teach as images.{held}",))

    def with_boxes(self, boxed: Collection[str], paired: bool) -> Split:
        """The same where boxes teach, those of ``boxed``; labelled cases teach only if ``paired``."""
        usable = tuple(name for name in self.unlabelled if name in boxed)
        notes = [f"{len(usable)} scans teach by their boxes."]
        if left := len(self.unlabelled) - len(usable):
            notes.append(f"{left} scans have neither box nor label and are not used.")
        if self.train and not paired:
            notes.append(f"The images of {len(self.train)} labelled scans are not used: their masks show shapes alone.")
        return Split(self.train if paired else (), self.validation, usable, tuple(notes))


def hold_back_images(split: Split, cohort: Cohort, seed: int) -> Split:
    """``split.without_labels()`` with scans held back, which show what is learnt by heart.

    They are those of validation; without one a tenth of the patients, from FEWEST scans on, the same for the same seed.
    """
    images = split.without_labels()
    if split.validation:
        return replace(images, validation=split.validation)
    patient = {case.id: case.patient for case in cohort.cases}
    patients = sorted({patient[name] for name in images.unlabelled})
    if len(images.unlabelled) < FEWEST or len(patients) < 2:
        note = f"No scan is held back: there are fewer than {FEWEST}, so what is learnt by heart cannot be seen."
        return replace(images, notes=(*images.notes, note))
    chosen = set(random.Random(f"images {seed}").sample(patients, max(1, round(len(patients) / SHARE))))
    held = tuple(name for name in images.unlabelled if patient[name] in chosen)
    left = tuple(name for name in images.unlabelled if patient[name] not in chosen)
    note = f"Labels are not used: {len(left)} scans teach as images, {len(held)} are held back."
    return replace(images, unlabelled=left, validation=held, notes=(note,))


def split_cases(cohort: Cohort, seed: int, validation: Literal["auto"] | int = "auto") -> Split:
    """Hold back the labelled cases of ``validation`` patients; the same ones for the same seed.

    Where pictures have classes, patients of each are held back in proportion, and one at least is left to teach.

    "auto" holds back a tenth of the patients from twenty labelled cases on. With fewer, every label is worth more in
    training: nothing chooses by validation here, so it would only be a number to look at, and a rough one.

    Raises InputError when no labelled case would be left to teach.
    """
    labelled = sorted(cohort.labelled, key=lambda case: case.id)
    patients = sorted({case.patient for case in labelled})
    unlabelled = sorted(cohort.unlabelled, key=lambda case: case.id)
    notes = []
    if validation == "auto":
        enough = len(labelled) >= FEWEST and len(patients) > 1
        count = max(1, round(len(patients) / SHARE)) if enough else 0
        if not enough:
            cases = "one labelled case teaches" if len(labelled) == 1 else f"all {len(labelled)} labelled cases teach"
            hint = "" if len(patients) < 2 else " Hold some back with --set validation=N."
            notes.append(f"No validation, so no score is claimed: {cases}.{hint}")
    else:
        count = validation
    if not 0 <= count < max(len(patients), 1):
        raise refuse(
            "configuration",
            "validation",
            count,
            f"0 to {len(patients) - 1}, as there are {len(patients)} patients with labels",
            "Some patients must be left to teach.",
        )
    chosen = _draw(cohort, patients, count, random.Random(f"split {seed}"))
    if kept_out := sum(case.patient in chosen for case in unlabelled):
        notes.append(f"{kept_out} unlabelled cases are left out: their patients are held back for validation.")
    if chosen and cohort.task == "classification" and len(patients) == len(labelled):
        notes.append(
            "Nothing says which images are of one patient. If some are, patients that teach are held back too, and "
            "every score is too good: write them into patients.csv."
        )
    return Split(
        train=tuple(case.id for case in labelled if case.patient not in chosen),
        validation=tuple(case.id for case in labelled if case.patient in chosen),
        unlabelled=tuple(case.id for case in unlabelled if case.patient not in chosen),
        notes=tuple(notes),
    )


def _draw(cohort: Cohort, patients: list[str], count: int, source: random.Random) -> set[str]:
    """``count`` of ``patients``, stratified by the class of their first labelled case where cases have classes."""
    if cohort.task != "classification":
        return set(source.sample(patients, count))
    of_class: dict[str, list[str]] = {}
    first = {case.patient: case.target for case in sorted(cohort.labelled, key=lambda case: case.id, reverse=True)}
    for patient in patients:
        of_class.setdefault(JOINED.join(first[patient]), []).append(patient)
    strata = [source.sample(members, len(members)) for _, members in sorted(of_class.items())]
    # In proportion by largest remainders; beyond what leaves each class a patient only where there is no other way.
    shares = [count * len(members) / len(patients) for members in strata]
    taken = [min(int(share), len(members) - 1) for share, members in zip(shares, strata, strict=True)]
    while sum(taken) < count:
        spare = [i for i, members in enumerate(strata) if taken[i] < len(members) - 1]
        spare = spare or [i for i, members in enumerate(strata) if taken[i] < len(members)]
        taken[max(spare, key=lambda i: (shares[i] - taken[i], -i))] += 1
    return {patient for members, number in zip(strata, taken, strict=True) for patient in members[:number]}
