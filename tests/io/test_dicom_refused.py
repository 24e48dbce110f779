"""What is wrong with a DICOM series is said by file, field, found, expected and fix; nothing is guessed."""

import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless, JPEGLosslessSV1

from dicoms import DOWN, NORMAL, RIGHT, dicom_slice, enhanced, stored, write_series
from foveate.io import inspect_image
from foveate.io.dicom_series import is_series

SR, PR = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.11.1"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"


def judged(folder: Path) -> tuple[bool, list]:
    """Whether there is a volume, and the problems; no warning of a library gets out."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume, problems = inspect_image([folder])
    for problem in problems:
        assert all((problem.file, problem.field, problem.found, problem.expected, problem.fix))
    return volume is not None, problems


def on(numbers: set[int], change: Callable) -> Callable:
    """``change`` of the slices with these numbers."""
    return lambda data, number: change(data) if number in numbers else None


def put(**fields: object) -> Callable:
    return lambda data: [setattr(data, name, value) for name, value in fields.items()]


def drop(*names: str) -> Callable:
    return lambda data: [delattr(data, name) for name in names]


def moved(vector) -> Callable:
    return lambda data: put(ImagePositionPatient=list(np.add(data.ImagePositionPatient, vector)))(data)


def sheared(data, number) -> None:
    moved(0.1 * number * np.array(RIGHT))(data)


def wide(data) -> None:
    data.Columns += 1
    data.PixelData = bytes(2 * data.Rows * data.Columns)


def coloured(data) -> None:
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.PixelData = data.PixelData * 3


def float_pixels(data, number) -> None:
    data.FloatPixelData = bytes(4 * data.Rows * data.Columns)
    del data.PixelData


ORIENTATION, KIND = "ImageOrientationPatient", "PhotometricInterpretation"
REFUSED = [
    ("30 the place of another", on({2}, moved(-2.5 * NORMAL)), "ImagePositionPatient", "1 of 6 slices at the place of"),
    ("31 two series", on({1}, put(SeriesInstanceUID="1.2.4")), "SeriesInstanceUID", "1.2.3 in 5 files .*; 1.2.4 in 1"),
    ("31 a bad UID is not shown", on({1}, put(SeriesInstanceUID="../../x")), "SeriesInstanceUID", "an invalid UID"),
    ("32 orientation", on({1, 3}, put(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])), ORIENTATION, "2: "),
    ("33 patients", on({4}, put(PatientID="P2")), "PatientID", "2: a patient in 5 files .*; a patient in 1 files"),
    ("34 pixel size", on({0}, put(PixelSpacing=[0.75, 1.3])), "PixelSpacing", "0.75 x 1.25 mm in 5 .*0.75 x 1.3 mm"),
    ("34 uneven steps", on({5}, moved(0.9 * NORMAL)), "slice positions", "steps from 2.5 to 3.4 mm"),
    ("34 off the line", on({3}, moved(0.4 * DOWN)), "slice positions", "0.4 mm off the line"),
    ("gantry tilt", sheared, "slice positions", "2.29 degrees to their normal"),
    ("35 no position", on({1}, drop("ImagePositionPatient")), "ImagePositionPatient", "nothing"),
    ("35 no orientation", on({1}, drop("ImageOrientationPatient")), ORIENTATION, "nothing"),
    ("no pixel size", on({1}, drop("PixelSpacing")), "PixelSpacing", "nothing"),
    ("pixel size of zero", on(set(range(6)), put(PixelSpacing=[0, 1])), "PixelSpacing", "0 x 1 in 6 files"),
    ("skew cosines", on(set(range(6)), put(ImageOrientationPatient=[1, 0, 0, 1, 0, 0])), ORIENTATION, "no two"),
    ("slope of zero", on({1}, put(RescaleSlope=0)), "RescaleSlope", "0"),
    ("37 matrix size", on({2}, wide), "Rows, Columns", "6 x 5 in 5 files .*; 6 x 6 in 1 files"),
    ("38 no pixels", on({2}, drop("PixelData")), "PixelData", "no pixels"),
    ("39 colour", on({2}, coloured), KIND, "RGB, 3 values a pixel"),
    ("39 palette", on({2}, put(PhotometricInterpretation="PALETTE COLOR")), KIND, "PALETTE COLOR"),
    ("40 some inverted", on({2}, put(PhotometricInterpretation="MONOCHROME1")), KIND, "2: MONOCHROME"),
    ("41 frames without groups", on({2}, put(NumberOfFrames=2)), "NumberOfFrames", "functional groups for 0"),
    ("42 more bits than there are", on({1}, put(BitsStored=17, HighBit=16)), "BitsStored", "16 allocated, 17 stored"),
    ("42 high bit", on({1}, put(HighBit=15)), "BitsStored", "high bit 15"),
    ("42 signed and not", on({1}, put(PixelRepresentation=0)), "BitsStored, PixelRepresentation", "from 0 to 4095"),
    ("42 values beyond the bits", on(set(range(6)), put(BitsStored=10, HighBit=9)), "BitsStored", "values from -20"),
    ("48 a segmentation", on({1}, put(SOPClassUID=SEG)), "SOPClassUID", "a segmentation"),
    ("slices side by side", on(set(range(6)), put(ImageType=["DERIVED", "MOSAIC"])), "ImageType", "MOSAIC: all slices"),
    ("real numbers", float_pixels, "PixelData", "real numbers"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # of the writer
@pytest.mark.parametrize(("spoil", "field", "found"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(tmp_path: Path, spoil: Callable, field: str, found: str) -> None:
    usable, problems = judged(write_series(tmp_path / "s", stored(6), spoil))
    assert not usable
    match = [problem for problem in problems if problem.severity == "refuse" and problem.field == field]
    assert match, [str(problem) for problem in problems]
    assert re.search(found, match[0].found), match[0].found


def test_29_missing_slices(tmp_path: Path) -> None:
    write_series(tmp_path / "s", stored(9))
    for number in (2, 5, 6):
        next((tmp_path / "s").glob(f"*_{number}.dcm")).unlink()
    usable, (problem,) = judged(tmp_path / "s")
    assert not usable
    assert problem.found.startswith("3 slices missing: 5 mm between 0_1.dcm and 4_3.dcm")
    assert problem.expected == "a slice every 2.5 mm"


def test_many_problems_in_one_pass(tmp_path: Path) -> None:
    def spoil(data, number):
        if number == 1:
            data.SeriesInstanceUID, data.PatientID = "1.2.9", "other"
        if number == 2:
            wide(data)
        if number == 3:
            data.RescaleSlope = 0

    _, problems = judged(write_series(tmp_path / "s", stored(6), spoil))
    assert {problem.field for problem in problems} == {
        "RescaleSlope",
        "SeriesInstanceUID",
        "PatientID",
        "Rows, Columns",
    }


def test_38_what_is_no_image_is_skipped_and_said(tmp_path: Path) -> None:
    write_series(tmp_path / "s")
    for number, kind in enumerate((SR, PR)):
        other = dicom_slice(stored()[..., 0], 0, SOPClassUID=kind)
        drop("PixelData", "Rows", "Columns", "ImagePositionPatient")(other)
        other.save_as(tmp_path / "s" / f"other{number}.dcm")
    (tmp_path / "s" / "notes.txt").write_text("no image")
    (tmp_path / "s" / ".hidden").write_text("no image")
    (tmp_path / "s" / "DICOMDIR").write_text("no image")
    usable, problems = judged(tmp_path / "s")
    assert usable
    assert [problem.severity for problem in problems] == ["warn"] * 3
    assert "no DICOM files (notes.txt)" in problems[-1].found
    for file in (tmp_path / "s").glob("*_*.dcm"):
        file.unlink()
    usable, problems = judged(tmp_path / "s")
    assert not usable
    assert problems[-1].found == "no image"


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, HTJ2KLossless])
def test_43_a_missing_decoder_is_named(tmp_path: Path, syntax, monkeypatch) -> None:
    from pydicom.pixels import get_decoder

    decoder = get_decoder(syntax)
    monkeypatch.setattr(decoder, "_available", {})  # whatever is installed here

    def compress(data, number):
        data.file_meta.TransferSyntaxUID = syntax
        data.PixelData = encapsulate([b"some bytes"])
        data["PixelData"].VR = "OB"

    usable, problems = judged(write_series(tmp_path / "s", stored(), compress))
    assert not usable
    assert problems[0].field == "transfer syntax"
    assert "pylibjpeg" in problems[0].expected
    assert re.search(r"pip install 'pylibjpeg>=2\.0' 'pylibjpeg-\w+>=2\.\d'", problems[0].fix)


def test_44_huge_rows_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    write_series(tmp_path / "s", stored(3), put_all(Rows=65535, Columns=65535))
    before = psutil.Process().memory_info().rss
    usable, problems = judged(tmp_path / "s")
    assert not usable
    assert problems[0].found.startswith("60 bytes")
    assert "8,589,672,450 bytes" in problems[0].expected
    assert psutil.Process().memory_info().rss - before < 2**28


def put_all(**fields: object) -> Callable:
    return lambda data, number: put(**fields)(data)


def test_44_huge_compressed_images_are_refused_by_the_memory_there_is(tmp_path: Path, monkeypatch) -> None:
    def compress(data, number):
        data.compress("1.2.840.10008.1.2.5", stored(3)[..., number])
        data.Rows = data.Columns = 65535

    class Free:
        available = 2**30

    write_series(tmp_path / "s", stored(3), compress)
    monkeypatch.setattr(psutil, "virtual_memory", Free)
    usable, problems = judged(tmp_path / "s")
    assert not usable
    assert "65535 x 65535 x 3, which needs" in problems[0].found


@pytest.mark.parametrize("keep", [0, 100, 140, 400, 700, -20])
def test_45_truncated(tmp_path: Path, keep: int) -> None:
    """Cut within the preamble, the file's own header, the dataset and the pixels."""
    write_series(tmp_path / "s")
    file = next((tmp_path / "s").glob("*_2.dcm"))
    file.write_bytes(file.read_bytes()[:keep])
    usable, problems = judged(tmp_path / "s")
    assert not usable
    assert any(problem.file == str(file) and problem.severity == "refuse" for problem in problems)


def test_45_no_byte_less_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "s" / "a.dcm"
    write_series(tmp_path / "s", stored(1))
    content = next((tmp_path / "s").iterdir()).read_bytes()
    next((tmp_path / "s").iterdir()).unlink()
    for length in range(0, len(content), 23):
        file.write_bytes(content[:length])
        assert not judged(tmp_path / "s")[0], length
    file.write_bytes(content)
    assert judged(tmp_path / "s")[0]


def test_45_truncated_compressed_pixels(tmp_path: Path) -> None:
    write_series(tmp_path / "s", stored(), lambda data, n: data.compress("1.2.840.10008.1.2.5", stored()[..., n]))
    assert judged(tmp_path / "s")[0]
    file = next((tmp_path / "s").glob("*_2.dcm"))
    file.write_bytes(file.read_bytes()[:-9])
    usable, (problem,) = judged(tmp_path / "s")
    assert not usable
    assert "without an end" in problem.found


@pytest.mark.parametrize("magic", [b"MZ\x90\0", b"\x7fELF"])
def test_46_an_executable_preamble_is_said(tmp_path: Path, magic: bytes) -> None:
    usable, problems = judged(write_series(tmp_path / "s", spoil=put_all(preamble=magic + bytes(124))))
    assert usable
    assert [(problem.field, problem.severity) for problem in problems] == [("preamble", "warn")]


def test_deflated_datasets_are_not_unpacked(tmp_path: Path) -> None:
    write_series(
        tmp_path / "s", spoil=lambda data, n: setattr(data.file_meta, "TransferSyntaxUID", "1.2.840.10008.1.2.1.99")
    )
    usable, problems = judged(tmp_path / "s")
    assert not usable
    assert "deflated" in problems[0].found


def test_enhanced_frames_at_one_place_or_without_groups(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    data = enhanced(stored())
    first, second = data.PerFrameFunctionalGroupsSequence[:2]
    second.PlanePositionSequence = first.PlanePositionSequence
    data.save_as(tmp_path / "s" / "a.dcm")
    assert "1 of 4 slices at the place of another (frame " in judged(tmp_path / "s")[1][0].found
    del data.PerFrameFunctionalGroupsSequence
    data.save_as(tmp_path / "s" / "a.dcm")
    assert "functional groups for 0" in judged(tmp_path / "s")[1][0].found


def test_frames_that_are_not_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    data = enhanced(stored())
    data.PixelData = data.PixelData[:-60]
    data.save_as(tmp_path / "s" / "a.dcm")
    assert judged(tmp_path / "s")[1][0].field == "PixelData"


def test_what_is_a_series(tmp_path: Path) -> None:
    write_series(tmp_path / "study" / "series")
    assert is_series(tmp_path / "study" / "series")
    assert not is_series(tmp_path / "study")
    assert not is_series(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert not is_series(tmp_path / "empty")
    assert judged(tmp_path / "empty")[1][0].found == "no image"


def test_a_file_called_dcm_that_is_none(tmp_path: Path) -> None:
    write_series(tmp_path / "s")
    (tmp_path / "s" / "page.dcm").write_text("<html>log in</html>")
    usable, problems = judged(tmp_path / "s")
    assert not usable
    assert "HTML" in problems[0].found


def test_damaged_sequence_of_groups(tmp_path: Path) -> None:
    """A length in the middle of the functional groups that leads nowhere."""
    (tmp_path / "s").mkdir()
    enhanced(stored()).save_as(tmp_path / "s" / "a.dcm")
    content = bytearray((tmp_path / "s" / "a.dcm").read_bytes())
    at = content.index(struct.pack("<HH", 0x5200, 0x9230)) + 8
    content[at + 8 : at + 12] = struct.pack("<L", 2**30)
    (tmp_path / "s" / "a.dcm").write_bytes(content)
    assert not judged(tmp_path / "s")[0]
