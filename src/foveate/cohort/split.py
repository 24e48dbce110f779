"""Which labelled cases teach and which are held back, never splitting a patient."""

from __future__ import annotations

import random
from dataclasses import dataclass

from foveate.cohort.cohort import Cohort

FEWEST = 5  # labelled cases below which none is held back
SHARE = 5  # one patient in five is held back


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


def split_cases(cohort: Cohort, seed: int, validation: bool = True) -> Split:
    """Hold back about a fifth of the patients with labelled cases, at least one; the same for the same seed.

    With fewer than five labelled cases, or all of one patient, nothing is held back and ``notes`` says so.
    """
    labelled = sorted(cohort.labelled, key=lambda case: case.id)
    patients = sorted({case.patient for case in labelled})
    everything = tuple(case.id for case in labelled)
    unlabelled = sorted(cohort.unlabelled, key=lambda case: case.id)
    note = ""
    if not validation:
        note = "Validation is switched off: every labelled case teaches."
    elif len(labelled) < FEWEST:
        cases = "one labelled case" if len(labelled) == 1 else f"{len(labelled)} labelled cases"
        note = f"No validation: {cases}, fewer than {FEWEST}. Every labelled case teaches; no score is claimed."
    elif len(patients) < 2:
        note = "No validation: all labelled cases belong to one patient. No score is claimed."
    if note:
        return Split(everything, (), tuple(case.id for case in unlabelled), (note,))
    chosen = set(random.Random(f"split {seed}").sample(patients, max(1, round(len(patients) / SHARE))))
    kept_out = [case.id for case in unlabelled if case.patient in chosen]
    notes = []
    if kept_out:
        notes.append(f"{len(kept_out)} unlabelled cases are left out: their patients are held back for validation.")
    return Split(
        train=tuple(case.id for case in labelled if case.patient not in chosen),
        validation=tuple(case.id for case in labelled if case.patient in chosen),
        unlabelled=tuple(case.id for case in unlabelled if case.patient not in chosen),
        notes=tuple(notes),
    )
