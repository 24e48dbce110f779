"""Labels come back on the image's own grid, whole or not at all."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from foveate.errors import FoveateError, InputError
from foveate.io import Volume, inspect_label, read_image, read_label, write_label
from foveate.io.files import grid_difference

SHAPE = (6, 7, 8)
ROTATED = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, 0.2, -0.1) @ np.diag([-0.7, 0.9, 3.0]), [12.5, -40, 99.125]
)


def labels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, shape).astype(np.uint8)


@pytest.fixture
def like(tmp_path: Path) -> Volume:
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), ROTATED)
    image.set_sform(ROTATED, 2)
    image.set_qform(ROTATED, 1)
    image.to_filename(tmp_path / "image.nii.gz")
    return read_image([tmp_path / "image.nii.gz"])


@pytest.mark.parametrize("name", ["out.nii.gz", "new/folder/out.nii"])
def test_grid_values_and_type(tmp_path: Path, like: Volume, name: str) -> None:
    write_label(tmp_path / name, labels(), like)
    written = nib.load(tmp_path / name)
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "image.nii.gz").affine)
    np.testing.assert_allclose(written.get_qform(), ROTATED, atol=1e-5)
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (2, 2)
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels())
    read, problems = inspect_label(tmp_path / name)
    assert problems == []
    np.testing.assert_array_equal(read.array[0], labels())


def test_another_reader_sees_the_same_grid(tmp_path: Path, like: Volume) -> None:
    write_label(tmp_path / "out.nii.gz", labels(), like)
    image, label = (sitk.ReadImage(str(tmp_path / name)) for name in ("image.nii.gz", "out.nii.gz"))
    assert label.GetSize() == image.GetSize()
    np.testing.assert_allclose(label.GetOrigin(), image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(label.GetDirection(), image.GetDirection(), atol=1e-5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label).T, labels())


def test_picture(tmp_path: Path) -> None:
    Image.new("RGB", (9, 5)).save(tmp_path / "image.png")
    write_label(tmp_path / "out.png", labels((5, 9)), read_image([tmp_path / "image.png"]))
    with Image.open(tmp_path / "out.png") as written:
        assert written.mode == "L"
        np.testing.assert_array_equal(np.asarray(written), labels((5, 9)))


def test_what_cannot_be_written_is_refused_before_anything_is_touched(tmp_path: Path, like: Volume) -> None:
    (tmp_path / "out.png").write_bytes(b"old")
    with pytest.raises(InputError, match=r"expected \.nii\.gz or \.nii"):
        write_label(tmp_path / "out.png", labels(), like)
    with pytest.raises(InputError, match="shape"):
        write_label(tmp_path / "out.nii.gz", labels((6, 7, 9)), like)
    with pytest.raises(InputError, match="0 to 255"):
        write_label(tmp_path / "out.nii.gz", labels().astype(int) * 100, like)
    assert (tmp_path / "out.png").read_bytes() == b"old"
    assert not (tmp_path / "out.nii.gz").exists()


FULL = """
import resource, signal, sys
import numpy as np
from foveate.io import read_image, write_label
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
like = read_image([sys.argv[1]])
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
write_label(sys.argv[2], np.arange(336, dtype=np.uint8).reshape(6, 7, 8) % 251, like)
"""


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, like: Volume) -> None:
    assert hasattr(resource, "RLIMIT_FSIZE")
    out = tmp_path / "out.nii.gz"
    write_label(out, labels(), like)
    before = out.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "image.nii.gz"), str(out)], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "could not be written" in done.stderr
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.nii.gz", "out.nii.gz"]


def test_a_failing_rename_leaves_the_old_file(tmp_path: Path, like: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.nii.gz"
    out.write_bytes(b"old")

    def fail(self: Path, target: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(FoveateError, match="what was there before is unchanged"):
        write_label(out, labels(), like)
    assert out.read_bytes() == b"old"
    assert not list(tmp_path.glob(".writing-*"))


@pytest.mark.parametrize("axes", ["RAS", "PSR", "SLA"])
def test_voxels_in_another_order_are_not_to_get_another_affine(axes: str, tmp_path: Path, like: Volume) -> None:
    """That would mirror them; what is advised gives the same voxels in the same places."""
    drawn = nib.Nifti1Image(labels(), like.affine)
    way = nib.orientations.ornt_transform(nib.io_orientation(like.affine), nib.orientations.axcodes2ornt(axes))
    turned = drawn.as_reoriented(way)
    turned.to_filename(tmp_path / "label.nii.gz")
    problem = grid_difference(read_label(tmp_path / "label.nii.gz"), like)
    assert problem is not None
    assert f"axes {axes}, not {''.join(nib.aff2axcodes(like.affine))}" in problem.found
    assert "do not copy" in problem.fix
    line = problem.fix.partition("as nibabel loads it: ")[2].rstrip(".")
    back = eval(line, {"nib": nib, "x": nib.load(tmp_path / "label.nii.gz")})
    back.to_filename(tmp_path / "label.nii.gz")
    again = read_label(tmp_path / "label.nii.gz")
    assert grid_difference(again, like) is None
    np.testing.assert_array_equal(again.array[0], labels())


def test_another_place_is_another_matter_than_another_order(like: Volume) -> None:
    moved, mirrored = like.affine.copy(), like.affine @ np.diag([-1.0, 1, 1, 1])
    moved[:3, 3] += 3
    for affine in (moved, mirrored):  # mirrored about its first voxel: it lies elsewhere
        problem = grid_difference(Volume(labels()[None], affine), like)
        assert problem is not None
        assert problem.field == "affine"


@pytest.mark.parametrize(("codes", "written"), [((94, 2), 2), ((-1, 1), 1), ((6, 0), 1), ((5, 1), 5)])
def test_a_code_that_the_format_does_not_have_is_not_written(codes: tuple, written: int, tmp_path: Path) -> None:
    """Such a file is read; its prediction ended in a traceback, with those of the scans after it."""
    content = bytearray(nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4)).to_bytes())
    content[252:256] = np.array(codes[::-1], "<i2").tobytes()
    (tmp_path / "image.nii").write_bytes(content)
    write_label(tmp_path / "out.nii.gz", labels(), read_image([tmp_path / "image.nii"]))
    header = nib.load(tmp_path / "out.nii.gz").header
    assert (header["sform_code"], header["qform_code"]) == (written, written)
