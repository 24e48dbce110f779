"""Modalities that some cases have no file of: which, in how many cases, and whether that can be trained on."""

from __future__ import annotations

from foveate.cohort.cohort import Cohort
from foveate.errors import Problem, Severity

NAMED = 3  # cases that a problem names


def missing_modalities(cohort: Cohort, allowed: bool) -> list[Problem]:
    """One problem for each modality that is missing in some case: a warning where that is allowed, else refused.

    A modality without any file is refused in either case: nothing could be learned of it.
    """
    problems = []
    for number, name in enumerate(cohort.channels):
        cases = [case.id for case in cohort.cases if number in case.missing]
        if not cases:
            continue
        everywhere = len(cases) == len(cohort.cases)
        taken = cohort.task == "segmentation"  # by some network
        severity: Severity = "warn" if allowed and taken and not everywhere else "refuse"
        some = ", ".join(cases[:NAMED]) + (", ..." if len(cases) > NAMED else "")
        found = f"missing in {len(cases)} case{'s' * (len(cases) > 1)} of {len(cohort.cases)} ({some})"
        add = "its series" if cohort.layout == "DICOM" else f"the files _{number:04d}"
        fix = f"Train with --network fusion_unet, which takes what is there, or add {add}."
        if not taken:
            fix = f"Add {add}, or leave the cases out: no network for {cohort.task} takes an image without it."
        if everywhere:
            fix = "Remove it from channel_names in dataset.json and number the others anew, or add its files."
        expected = "a file in every case, for a network that needs all modalities"
        problems.append(Problem(str(cohort.root), f"modality {name}", found, expected, fix, severity))
    return problems
