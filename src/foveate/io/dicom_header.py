"""The header of one DICOM file, judged before its pixels are touched: DICOM PS3.3 (modules) and PS3.10 (file format).

What identifies a patient is compared in memory and stands in no message, file or name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID, UID_dictionary

from foveate.errors import InputError, Problem, refuse
from foveate.io.dicom_fields import AGAIN, Fields, plain, sequence, texts, words
from foveate.io.dicom_pixels import judge_pixels, stored_values
from foveate.io.stream import RESTORE, what_is

DEFLATED = b"1.2.840.10008.1.2.1.99"
STORAGE = "1.2.840.10008.5.1.4.1.1."
SEGMENTATION = f"{STORAGE}66.4"
# What lies in a study beside its images, by the beginning of the SOP class: waveforms, presentation states, raw data
# and registrations, real-world values, reports and key objects, documents, structure sets, plans.
NO_IMAGES = tuple(STORAGE + part for part in ("9.", "11.", "66", "67", "68.", "88.", "104.", "481.3", "481.5"))
EXECUTABLES = {
    b"MZ": "a Windows program (MZ)",
    b"\x7fELF": "a Linux program (ELF)",
    b"\xcf\xfa\xed\xfe": "a Mac program",
}
READ = [
    "SOPClassUID", "ImageType", "Modality", "SeriesDescription", "PatientName", "PatientID", "StudyInstanceUID",
    "SeriesInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "SpacingBetweenSlices", "PhotometricInterpretation", "NumberOfFrames", "RescaleSlope",
    "RescaleIntercept", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "ModalityLUTSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
TAGS: list[Any] = [tag_for_keyword(name) for name in READ]
COSINES = 1e-3  # how far direction cosines may be from unit length and from perpendicular


@dataclass(frozen=True)
class Frame:
    """One slice. index: its number in a multi-frame file, else None. position: of the first pixel's centre, LPS mm.

    orientation: the directions in which columns, then rows are counted. spacing: mm between rows, between columns.
    thickness: mm between slices as the header says, 0 where it does not.
    """

    path: Path
    index: int | None
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float
    slope: float
    intercept: float


@dataclass(frozen=True)
class Header:
    """What a file says of its image.

    shape: rows, columns. stored: the type of its values, which are from ``low`` to ``high``. inverted: high values are
    dark (MONOCHROME1). patient: only ever compared. person: words of the patient's name; none of a name
    with digits, which is a pseudonym.
    """

    path: Path
    frames: tuple[Frame, ...]
    shape: tuple[int, int]
    low: int
    high: int
    stored: str
    inverted: bool
    modality: str
    localiser: bool
    study: str
    series: str
    frame_of_reference: str
    description: str = field(repr=False)
    patient: str = field(repr=False)
    person: frozenset[str] = field(repr=False)


def read_header(path: Path) -> tuple[Header | None, list[Problem]]:
    """The header, None where there is no image that can be used, and all that is wrong with it. Raises OSError."""
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except InputError as error:
        return None, error.problems


def is_dicom(path: Path) -> bool:
    """Whether a file begins as a DICOM file does; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _read(path: Path, file: BinaryIO) -> tuple[Header | None, list[Problem]]:
    head = file.read(1024)
    if head[128:132] != b"DICM":
        raise refuse(path, "content", what_is(head), "a DICOM file, with DICM after 128 bytes", RESTORE)
    if DEFLATED in head:  # pydicom would unpack the whole dataset, whatever its size, before anything can be judged
        fix = "Write the series again uncompressed, for instance with DCMTK's dcmconv +te."
        raise refuse(path, "transfer syntax", "a deflated dataset", "one that is not packed as a whole", fix)
    file.seek(0)
    try:
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
        syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", "")))
    except Exception as error:  # whatever pydicom stumbles over in damaged bytes
        raise refuse(path, "header", f"damaged ({type(error).__name__})", "a DICOM dataset", RESTORE) from None
    fields = Fields(path, dataset)
    for magic, name in EXECUTABLES.items():
        if head.startswith(magic):
            fix = "It is neither run nor copied. Ask who made the file, and zero its first 128 bytes."
            fields.note("preamble", name, "zeros", fix, "warn")
    kind = fields.text("SOPClassUID")
    if kind == SEGMENTATION:
        fix = "Keep it apart from the images; to be a label it must be a NIfTI file on the grid of its series."
        fields.note("SOPClassUID", "a segmentation", "an image", fix)
        return None, fields.problems
    if kind.startswith(NO_IMAGES):
        name = UID(kind).name if kind in UID_dictionary else "an object without an image"
        fields.note("SOPClassUID", name, "an image", "It is skipped.", "warn")
        return None, fields.problems
    return _judge(fields, file, syntax), fields.problems


def _judge(fields: Fields, file: BinaryIO, syntax: UID) -> Header | None:
    """None when something is refused."""
    frames = _frames(fields)
    count = len(sequence(fields.dataset, "PerFrameFunctionalGroupsSequence")) or 1
    judge_pixels(fields, file, syntax, count)
    low, high, stored = stored_values(fields)
    if "MOSAIC" in texts(fields.dataset, "ImageType"):  # Siemens: only a private header says where each slice lies
        fix = "Convert the series with a tool that takes the slices apart, such as dcm2niix."
        fields.note("ImageType", "MOSAIC: all slices of a volume side by side in one", "one slice", fix)
    if not fields.usable:
        return None
    name = fields.text("PatientName")
    return Header(
        path=fields.path,
        frames=frames,
        shape=(fields.whole("Rows"), fields.whole("Columns")),
        low=low,
        high=high,
        stored=stored,
        inverted=fields.text("PhotometricInterpretation") == "MONOCHROME1",
        modality=plain(fields.text("Modality")),
        localiser="LOCALIZER" in texts(fields.dataset, "ImageType"),
        study=fields.text("StudyInstanceUID"),
        series=fields.text("SeriesInstanceUID"),
        frame_of_reference=fields.text("FrameOfReferenceUID"),
        description=fields.text("SeriesDescription"),
        patient=fields.text("PatientID"),
        person=frozenset() if any(map(str.isdigit, name)) else words(name),
    )


def _frames(fields: Fields) -> tuple[Frame, ...]:
    """Every slice and its place; those of a multi-frame image stand in its functional groups."""
    if sequence(fields.dataset, "ModalityLUTSequence"):
        fix = "Convert the series with a tool that applies the table."
        fields.note("ModalityLUTSequence", "a table of values", "a slope and an intercept", fix)
    shared = sequence(fields.dataset, "SharedFunctionalGroupsSequence")[:1]
    own = sequence(fields.dataset, "PerFrameFunctionalGroupsSequence")
    count = fields.text("NumberOfFrames") or "1"
    if count == "1" and not own and not shared:
        frames = [_frame(fields, None, None)]
    elif count == str(len(own)):
        frames = [_frame(fields, number, [group, *shared]) for number, group in enumerate(own)]
    else:
        found = f"{plain(count)} frames, and functional groups for {len(own)}"
        fix = "Take the series as single-frame images, or as an enhanced CT or MR image."
        fields.note("NumberOfFrames", found, "functional groups that say where each frame lies", fix)
        frames = []
    return tuple(frames)


def _frame(fields: Fields, index: int | None, groups: Sequence[Dataset] | None) -> Frame:
    position = fields.numbers("ImagePositionPatient", 3, groups)
    orientation = fields.numbers("ImageOrientationPatient", 6, groups)
    spacing = fields.numbers("PixelSpacing", 2, groups)
    (slope,) = fields.numbers("RescaleSlope", 1, groups, 1.0)
    (intercept,) = fields.numbers("RescaleIntercept", 1, groups, 0.0)
    (between,) = fields.numbers("SpacingBetweenSlices", 1, groups, 0.0)
    (thickness,) = fields.numbers("SliceThickness", 1, groups, 0.0)
    axes = np.array(orientation).reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > COSINES:  # not so for NaN, which is noted
        fields.note("ImageOrientationPatient", "no two perpendicular unit vectors", "direction cosines", AGAIN)
    if min(spacing) <= 0:
        fields.note("PixelSpacing", " x ".join(f"{side:g}" for side in spacing), "millimetres above 0", AGAIN)
    if slope == 0:
        fields.note("RescaleSlope", "0", "another number", AGAIN)
    where = abs(between) if math.isfinite(between) and between else thickness
    return Frame(fields.path, index, position, orientation, spacing, where, slope, intercept)
