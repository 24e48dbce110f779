"""Cases for a model among folders of DICOM series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foveate.cohort.cohort import Case
from foveate.cohort.dicom_studies import find_series, find_studies, group_series, modality_key
from foveate.errors import InputError, Problem


def dicom_cases(source: Path, channels: Sequence[str]) -> list[Case]:
    """The cases at or below ``source`` for a model of these channels; [] where there is no DICOM file.

    A model of one channel takes the series that are called as it is or whose modality (CT, MR) is, all but localisers
    if none is. Each is a case called as its study, as in training; by STUDY_SERIES where a study has several, and by
    its folder alone where that study is ``source`` itself. A model of several takes the studies in which a series is
    called as one of its channels.
    Raises InputError when a study has none, or when its series leave open which is which.
    """
    if len(channels) > 1:
        return _studies(source, channels)
    groups = list(group_series(source, find_series(source)))
    wanted = modality_key(channels[0])
    called = [[s for s in g.scans if wanted in (modality_key(s.name), modality_key(s.modality))] for g in groups]
    cases = []
    for group, scans in zip(groups, called if any(called) else [group.images for group in groups], strict=True):
        for scan in scans:
            name = group.id
            if len(scans) > 1:
                name = scan.id if group.folder == source else f"{group.id}_{scan.id}"
            cases.append(Case(name, (scan.folder,), None, name))
    return cases


def _studies(source: Path, channels: Sequence[str]) -> list[Case]:
    said: list[Problem] = []
    studies = find_studies(source, find_series(source), said, channels)
    problems = [problem for problem in said if problem.severity != "warn"]
    cases = []
    for study in studies:
        there = [number for number, name in enumerate(channels) if name in study.channels]
        images = tuple(study.channels[channels[number]] for number in there)
        missing = tuple(number for number in range(len(channels)) if number not in there)
        if images:
            cases.append(Case(study.id, images, None, study.id, missing))
            continue
        found = "series called " + ", ".join(study.found)
        expected = "one called " + " or ".join(channels) + ", as the modalities of the model"
        fix = "Call the series' folders so, or move the study elsewhere."
        problems.append(Problem(str(source / study.called), "modalities", found, expected, fix, case=study.id))
    if problems:
        raise InputError(problems)
    return cases
