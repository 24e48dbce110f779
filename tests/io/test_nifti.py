"""Sound NIfTI files of every kind give nibabel's voxels and affine exactly."""

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from foveate.errors import InputError
from foveate.io import inspect_image, inspect_label, read_image, read_label

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.1, 0.4) @ np.diag([0.8, 1.2, -2.5]), [-80.5, 33.25, 7]
)
TYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">i2", ">f4", ">f8"]


def voxels(shape: tuple[int, ...] = (5, 6, 7)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, shape)


def save(path: Path, array: np.ndarray, affine: np.ndarray = OBLIQUE, kind: type = nib.Nifti1Image) -> Path:
    header = kind.header_class(endianness=">" if array.dtype.byteorder == ">" else "<")
    header.set_data_dtype(array.dtype)
    image = kind(array, affine, header=header)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.to_filename(path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_and_byte_order(tmp_path: Path, dtype: str, kind: type, suffix: str) -> None:
    path = save(tmp_path / f"x{suffix}", voxels().astype(dtype), kind=kind)
    volume, problems = inspect_image([path])
    assert problems == []
    assert volume is not None
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], nib.load(path).get_fdata())
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
    assert volume.spacing == pytest.approx((0.8, 1.2, 2.5))
    np.testing.assert_array_equal(inspect_label(path)[0].array[0], voxels())


def test_stored_values_are_scaled(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", voxels().astype("i2"))
    content = bytearray(path.read_bytes())
    struct.pack_into("<ff", content, 112, 0.25, -1024)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_image([path]).array[0], voxels() * 0.25 - 1024)
    np.testing.assert_array_equal(read_image([path]).array[0], nib.load(path).get_fdata())
    struct.pack_into("<f", content, 112, 0.0)  # a slope of zero means: not scaled
    path.write_bytes(content)
    np.testing.assert_array_equal(read_image([path]).array[0], voxels())


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4"])
def test_labels_that_were_stored_scaled_are_whole_again(tmp_path: Path, dtype: str) -> None:
    """nibabel scales a mask of floats into the integers of the image's header that it is saved with."""
    mask, header = (voxels() % 2).astype(float), nib.Nifti1Image(voxels().astype(dtype), OBLIQUE).header
    nib.save(nib.Nifti1Image(mask, OBLIQUE, header), tmp_path / "x.nii")
    assert nib.load(tmp_path / "x.nii").dataobj.slope != 1
    np.testing.assert_array_equal(read_label(tmp_path / "x.nii").array[0], mask)
    nib.save(nib.Nifti1Image(mask * 0.999, OBLIQUE, header), tmp_path / "y.nii")
    with pytest.raises(InputError, match="no whole number"):
        read_label(tmp_path / "y.nii")


@pytest.mark.parametrize("only", ["qform", "sform"])
def test_one_form_is_enough(tmp_path: Path, only: str) -> None:
    path = save(tmp_path / "x.nii", voxels().astype("i2"))
    content = bytearray(path.read_bytes())
    struct.pack_into("<h", content, 254 if only == "qform" else 252, 0)
    path.write_bytes(content)
    volume, problems = inspect_image([path])
    assert problems == []
    assert volume is not None
    np.testing.assert_allclose(volume.affine, nib.load(path).affine, atol=1e-6)


def test_header_extensions_are_stepped_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels().astype("i2"), OBLIQUE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a remark" * 200))
    image.to_filename(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_image([tmp_path / "x.nii.gz"]).array[0], voxels())


def test_gzip_in_many_members_is_read_whole(tmp_path: Path) -> None:
    """bgzip and pigz write a file as a row of gzip members."""
    content = save(tmp_path / "x.nii", voxels((40, 40, 40)).astype("i2")).read_bytes()
    pieces = [gzip.compress(content[start : start + 5000]) for start in range(0, len(content), 5000)]
    (tmp_path / "x.nii.gz").write_bytes(b"".join(pieces))
    volume, problems = inspect_image([tmp_path / "x.nii.gz"])
    assert problems == []
    np.testing.assert_array_equal(volume.array[0], voxels((40, 40, 40)))
    damaged = bytearray(pieces[3])
    damaged[-8] ^= 1
    (tmp_path / "x.nii.gz").write_bytes(b"".join([*pieces[:3], bytes(damaged), *pieces[4:]]))
    with pytest.raises(InputError, match="wrong checksum"):
        read_image([tmp_path / "x.nii.gz"])


def test_channels_in_several_files_or_on_the_last_axis(tmp_path: Path) -> None:
    array = voxels((5, 6, 7, 3)).astype("i2")
    files = [save(tmp_path / f"{number}.nii", array[..., number]) for number in range(3)]
    together = save(tmp_path / "all.nii.gz", array)
    several = read_image(files, 3).array
    np.testing.assert_array_equal(several, np.moveaxis(array, -1, 0))
    np.testing.assert_array_equal(read_image([together], 3).array, several)
    with pytest.raises(InputError, match="4-D"):
        read_image([together])
    with pytest.raises(InputError, match="3 channels; expected 2 channels"):
        read_image([together], 2)
    with pytest.raises(InputError, match="3 in 3 files; expected 2 channels"):
        read_image(files, 2)
    save(files[1], array[..., 1], OBLIQUE + np.eye(4, k=3))
    with pytest.raises(InputError, match=r"1\.00 mm"):
        read_image(files)


def test_axes_of_one_element_are_dropped_with_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", voxels((5, 6, 7, 1)).astype("i2"))
    volume, problems = inspect_image([path])
    assert volume is not None
    assert volume.shape == (5, 6, 7)
    assert [problem.severity for problem in problems] == ["warn"]


def test_large_label_values_stay_whole(tmp_path: Path) -> None:
    array = voxels().astype("i4") * 1000
    volume = read_label(save(tmp_path / "x.nii", array))
    assert volume.array.dtype == np.int32
    np.testing.assert_array_equal(volume.array[0], array)


def test_missing_file_and_unknown_suffix(tmp_path: Path) -> None:
    volume, problems = inspect_image([tmp_path / "none.nii.gz"])
    assert volume is None
    assert [problem.severity for problem in problems] == ["aside"]
    with pytest.raises(InputError, match="No such file"):
        read_image([tmp_path / "none.nii.gz"])
    with pytest.raises(InputError, match=r"expected \.nii\.gz, \.nii, \.png"):
        read_image([tmp_path / "scan.mha"])


def test_nothing_about_the_patient_is_kept(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels().astype("i2"), OBLIQUE)
    image.header["descrip"] = b"Canary^Patient"
    image.header["db_name"] = b"Canary"
    image.to_filename(tmp_path / "x.nii.gz")
    assert "Canary" not in repr(read_image([tmp_path / "x.nii.gz"]))


def test_real_scans_agree_with_nibabel(shared_data: Path) -> None:
    for path in sorted((shared_data / "left_atrium" / "images").iterdir())[:2]:
        volume, problems = inspect_image([path])
        assert problems == []
        np.testing.assert_array_equal(volume.array[0], nib.load(path).get_fdata(dtype=np.float32))
        np.testing.assert_array_equal(volume.affine, nib.load(path).affine)
