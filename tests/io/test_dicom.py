"""A DICOM series gives its own voxels and the affine of the closed form, whatever its files are called."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from dicoms import AFFINE, NORMAL, STEP, dicom_slice, enhanced, stored, write_series
from foveate.errors import InputError
from foveate.io import inspect_image, read_image, read_label


def expected(values: np.ndarray) -> np.ndarray:
    """[rows, columns, slices] -> [x, y, z]."""
    return np.moveaxis(values, 0, 1).astype(np.float32)


@pytest.mark.parametrize("dtype", ["i2", "u2", "u1"])
def test_oblique_series(tmp_path: Path, dtype: str) -> None:
    values = stored(dtype="u2").astype(dtype) if dtype == "u1" else stored(dtype=dtype)
    volume, problems = inspect_image([write_series(tmp_path / "s", values)])
    assert problems == []
    assert volume is not None
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], expected(values))
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-9)
    assert volume.spacing == pytest.approx((1.25, 0.75, 2.5))
    assert volume.meta == {
        "format": "dicom",
        "stored": f"{'u' * (dtype[0] == 'u')}int{8 * int(dtype[1])}",
        "inverted": False,
    }


def test_order_of_files_and_instance_numbers_change_nothing(tmp_path: Path) -> None:
    first = read_image([write_series(tmp_path / "s")])
    for number, file in enumerate(sorted((tmp_path / "s").iterdir(), reverse=True)):
        file.rename(tmp_path / "s" / f"z{number}")
    again = read_image([tmp_path / "s"])
    np.testing.assert_array_equal(again.array, first.array)
    np.testing.assert_array_equal(again.affine, first.affine)


def test_slices_written_against_the_normal(tmp_path: Path) -> None:
    """A reversed direction of rows turns the normal over: the same points in space, other array axes."""

    def turn(data, number):
        data.ImageOrientationPatient = [
            *data.ImageOrientationPatient[:3],
            *(-v for v in data.ImageOrientationPatient[3:]),
        ]

    volume = read_image([write_series(tmp_path / "s", stored(), turn)])
    np.testing.assert_array_equal(volume.array[0], expected(stored())[..., ::-1])
    np.testing.assert_allclose(volume.affine[:3, 1], -AFFINE[:3, 1], atol=1e-9)
    np.testing.assert_allclose(volume.affine[:3, 2], -AFFINE[:3, 2], atol=1e-9)
    np.testing.assert_allclose(volume.affine[:3, 3], AFFINE[:3, 3] + 3 * AFFINE[:3, 2], atol=1e-9)


def test_slope_and_intercept_of_each_slice(tmp_path: Path) -> None:
    def scale(data, number):
        data.RescaleSlope, data.RescaleIntercept = f"{0.1 * (number + 1):.1f}", f"{-1000 + number}"

    values = stored()
    slope, intercept = np.array([0.1, 0.2, 0.3, 0.4]), -1000 + np.arange(4)
    volume = read_image([write_series(tmp_path / "s", values, scale)])
    np.testing.assert_array_equal(volume.array[0], expected(values * slope + intercept))


@pytest.mark.parametrize(("dtype", "span"), [("u2", 4095), ("i2", -1)])
def test_monochrome1_is_inverted_and_recorded(tmp_path: Path, dtype: str, span: int) -> None:
    values = stored(dtype=dtype)
    write_series(tmp_path / "s", values, PhotometricInterpretation="MONOCHROME1", RescaleSlope=2, RescaleIntercept=5)
    volume, problems = inspect_image([tmp_path / "s"])
    assert volume is not None
    np.testing.assert_array_equal(volume.array[0], expected(2 * (span - values.astype(int)) + 5))
    assert volume.meta["inverted"]
    assert [(problem.found, problem.severity) for problem in problems] == [("MONOCHROME1", "warn")]


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    values = stored()
    (tmp_path / "s").mkdir()
    enhanced(values).save_as(tmp_path / "s" / "one.dcm")
    volume = read_image([tmp_path / "s"])
    np.testing.assert_array_equal(volume.array[0], expected(values * np.arange(1, 5) - np.arange(4)))
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-9)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEG2000Lossless])
def test_transfer_syntaxes(tmp_path: Path, syntax) -> None:
    values = stored(dtype="u2")
    if syntax == JPEG2000Lossless and not features.check("jpg_2000"):
        pytest.skip("Pillow was built without JPEG 2000")
    (tmp_path / "s").mkdir()
    for number in range(4):
        data = dicom_slice(values[..., number], number)
        path = tmp_path / "s" / f"{number}.dcm"
        data.file_meta.TransferSyntaxUID = syntax
        if syntax == RLELossless:
            data.compress(RLELossless, values[..., number])
        elif syntax == JPEG2000Lossless:
            Image.fromarray(values[..., number]).save(tmp_path / "x.jp2", irreversible=False)
            data.PixelData = encapsulate([codestream((tmp_path / "x.jp2").read_bytes())])
            data["PixelData"].VR = "OB"
        elif syntax == ExplicitVRBigEndian:
            data.PixelData = values[..., number].astype(">u2").tobytes()
        data.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    volume, problems = inspect_image([tmp_path / "s"])
    assert [str(problem) for problem in problems] == []
    assert volume is not None
    np.testing.assert_array_equal(volume.array[0], expected(values))


def codestream(jp2: bytes) -> bytes:
    """DICOM holds the bare codestream, not the boxes of a file."""
    return jp2[jp2.index(b"\xff\x4f\xff\x51") :]


def test_positions_rounded_to_a_hundredth_are_one_grid(tmp_path: Path) -> None:
    def rounded(data, number):
        data.ImagePositionPatient = [round(float(value), 2) for value in data.ImagePositionPatient]

    volume, problems = inspect_image([write_series(tmp_path / "s", stored(12), rounded)])
    assert problems == []
    assert volume is not None
    np.testing.assert_allclose(volume.affine, AFFINE, atol=0.01)


def test_one_slice_takes_its_thickness_from_the_header(tmp_path: Path) -> None:
    volume, problems = inspect_image([write_series(tmp_path / "s", stored(1))])
    assert volume is not None
    np.testing.assert_allclose(volume.affine[:3, 2], AFFINE[:3, 2] / STEP, atol=1e-9)
    assert [problem.severity for problem in problems] == ["warn"]


def test_channels_of_two_series(tmp_path: Path) -> None:
    folders = [write_series(tmp_path / name, stored(seed=seed)) for seed, name in enumerate("ab")]
    volume = read_image(folders, 3, missing=[1])
    np.testing.assert_array_equal(volume.array[::2], [expected(stored(seed=seed)) for seed in (0, 1)])
    assert np.isnan(volume.array[1]).all()

    def away(data, number):
        data.ImagePositionPatient = list(data.ImagePositionPatient + 3 * NORMAL)

    write_series(tmp_path / "b", stored(), away)
    with pytest.raises(InputError, match=r"3\.00 mm"):
        read_image(folders, 2)


def test_a_series_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Convert the label to NIfTI"):
        read_label(write_series(tmp_path / "s"))


@pytest.mark.parametrize("series", ["Study3/11-T1post-*", "Study1/13_HCrop*"])
def test_real_series_are_what_simpleitk_reads(shared_data: Path, series: str) -> None:
    itk = pytest.importorskip("SimpleITK")
    folders = list((shared_data / "dicom").glob(series))
    if not folders:
        pytest.skip(f"no {series} in {shared_data / 'dicom'}")
    for folder in folders:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            volume, problems = inspect_image([folder])
        assert problems == []
        reader = itk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        assert volume is not None
        np.testing.assert_array_equal(volume.array[0], itk.GetArrayFromImage(image).T)
        np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-4)
