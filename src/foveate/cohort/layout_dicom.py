"""A folder of DICOM studies: STUDY/SERIES/*.dcm, and labels/STUDY.nii.gz; a study without label file is unlabelled.

The series of a study that share one grid are its modalities, called as their folders are. A dataset.json with nnU-Net's
keys may name the modalities that count, in their order, and the classes. Folders may lie deeper, PATIENT/STUDY/SERIES:
the study's label is then labels/PATIENT_STUDY.nii.gz. Folders with one series each and nothing around them are studies
of one modality. Studies with one PatientID are of one patient.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foveate.cohort.cohort import Case, Cohort
from foveate.cohort.dicom_studies import Study, find_series, find_studies, modality_key
from foveate.cohort.layout_nnunet import match_labels
from foveate.cohort.layout_plain import read_declared
from foveate.cohort.listing import list_images, read_patients
from foveate.errors import Problem


def has_studies(root: Path) -> bool:
    """Whether a DICOM series lies somewhere in a folder."""
    return any(True for _ in find_series(root))


def find_dicom(root: Path, data: dict[str, Any] | None) -> Cohort:
    """Reads the headers of all series, which alone say what belongs together; classes may stay empty."""
    problems: list[Problem] = []
    names, classes, ignore, tree = read_declared(root, data or {}, problems)
    studies = find_studies(root, find_series(root, problems), problems, names)
    studies = [study for study in studies if study.channels]
    found = {modality_key(name): name for study in reversed(studies) for name in study.channels}
    channels = names or tuple(found[key] for key in sorted(found))
    by_id: dict[str, Study] = {}
    for study in studies:
        if by_id.setdefault(study.id, study) is not study:
            what = f"{study.id}, as another study is"
            problems.append(
                Problem(str(root), "studies called", what, "one name for each", "Rename one of the folders.")
            )
    if not studies:
        fix = "Name the series' folders as channel_names of dataset.json does." if names else "Add studies."
        problems.append(Problem(str(root), "studies", "none with a series that counts", "at least one", fix))
    folder = root / "labels"
    labels = list_images(folder, root, problems) if folder.is_dir() else []
    label_of = match_labels(labels, {study.called: study for study in studies}, problems)
    patients = read_patients(root, by_id, problems, {id: study.patient for id, study in by_id.items()})
    cases = []
    for id, study in sorted(by_id.items()):
        folders = {modality_key(name): series for name, series in study.channels.items()}
        there = [number for number, name in enumerate(channels) if modality_key(name) in folders]
        missing = tuple(number for number in range(len(channels)) if number not in there)
        images = tuple(folders[modality_key(channels[number])] for number in there)
        cases.append(Case(id, images, label_of.get(study.called), patients[id], missing))
    return Cohort(root, "DICOM", 3, tuple(cases), channels, classes, ignore, tuple(problems), tree)
