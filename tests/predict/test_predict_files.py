"""Files in, files out: on the input's own grid, whole or not at all, and never over the input."""

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from foveate.cohort.plan import ChannelPlan, Plan
from foveate.errors import InputError
from foveate.files import Unwritable
from foveate.predict.files import find_images, predict_files
from foveate.predict.predictor import Predictor
from foveate.slices import COLOURS
from foveate.tasks import build_task


class Threshold(nn.Module):
    """Class 1 where the last channel is positive."""

    def forward(self, x):
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, -1:]], 1)


def model(channels=1, dims=3):
    plan = Plan(
        dims=dims,
        spacing=(1.0,) * dims,
        patch=(16,) * dims,
        batch=1,
        channels=tuple(ChannelPlan(name=f"c{i}", normalisation="ct", lower=-9, upper=999) for i in range(channels)),
        classes={"one": 1},
        widths=(4, 8),
        strides=((1,) * dims, (2,) * dims),
    )
    return Predictor(Threshold(), build_task(plan), plan, precision="float32")


AFFINE = np.array([[0, 0, -1.0, 40], [-1, 0, 0, 30], [0, 1, 0, -20], [0, 0, 0, 1]])


def scan(path, seed=0, shape=(9, 11, 7)):
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return (array > 0).astype(np.uint8)


def assert_label(path, expected):
    image = nib.load(path)
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_allclose(image.affine, AFFINE)
    np.testing.assert_array_equal(np.asarray(image.dataobj), expected)


def test_one_file_to_a_file_or_a_folder(tmp_path):
    expected = scan(tmp_path / "in" / "a.nii.gz")
    assert predict_files(model(), tmp_path / "in" / "a.nii.gz", tmp_path / "x.nii") == [tmp_path / "x.nii"]
    assert_label(tmp_path / "x.nii", expected)
    written = predict_files(model(), tmp_path / "in" / "a.nii.gz", tmp_path / "out")
    assert written == [tmp_path / "out" / "a.nii.gz"]
    assert_label(written[0], expected)


@pytest.mark.parametrize("folder", [".", "images", "imagesTs"])
def test_folder_and_dataset_folder(tmp_path, folder):
    expected = {name: scan(tmp_path / "data" / folder / f"{name}.nii", i) for i, name in enumerate(["b", "a"])}
    (tmp_path / "data" / folder / "._a.nii").write_bytes(b"macOS")
    calls = []
    written = predict_files(model(), tmp_path / "data", tmp_path / "out", progress=lambda *c: calls.append(c))
    assert [path.name for path in written] == ["a.nii.gz", "b.nii.gz"]
    assert calls == [(1, 2), (2, 2)]
    for name, labels in expected.items():
        assert_label(tmp_path / "out" / f"{name}.nii.gz", labels)


def test_channel_suffixes(tmp_path):
    scan(tmp_path / "in" / "a_0000.nii.gz", 1)
    expected = scan(tmp_path / "in" / "a_0001.nii.gz", 2)
    for source in (tmp_path / "in", tmp_path / "in" / "a_0000.nii.gz"):
        written = predict_files(model(channels=2), source, tmp_path / "out", overwrite=True)
        assert [path.name for path in written] == ["a.nii.gz"]
        assert_label(written[0], expected)
    with pytest.raises(InputError, match="channels: found 2; expected 1"):
        predict_files(model(), tmp_path / "in", tmp_path / "new")
    (tmp_path / "in" / "a_0000.nii.gz").unlink()
    with pytest.raises(InputError, match=r"channels of a: found no c0 \(_0000\); expected all of c0, c1"):
        predict_files(model(channels=2), tmp_path / "in", tmp_path / "new")


@pytest.mark.parametrize("numbers", [(1,), (1, 2, 3), (0, 2), (31, 32)])
def test_digits_at_the_end_of_volumes_count_scans_where_they_count_no_channels(tmp_path, numbers):
    expected = {f"scan_{n:04d}": scan(tmp_path / "in" / f"scan_{n:04d}.nii.gz", n) for n in numbers}
    written = predict_files(model(), tmp_path / "in", tmp_path / "out")
    assert [path.name for path in written] == [f"{name}.nii.gz" for name in expected]
    for path, labels in zip(written, expected.values(), strict=True):
        assert_label(path, labels)
    last = f"scan_{numbers[-1]:04d}.nii.gz"
    assert predict_files(model(), tmp_path / "in" / last, tmp_path / "one")[0].name == last


def test_single_channel_model_takes_nnunet_names(tmp_path):
    expected = scan(tmp_path / "in" / "a_0000.nii.gz")
    for source in (tmp_path / "in", tmp_path / "in" / "a_0000.nii.gz"):
        assert_label(predict_files(model(), source, tmp_path / "out", overwrite=True)[0], expected)


def test_too_few_channels_are_said(tmp_path):
    scan(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(InputError, match=r"expected .*2 channels"):
        predict_files(model(channels=2), tmp_path / "in", tmp_path / "out")


def test_unreadable_scan_is_set_aside_and_listed_at_the_end(tmp_path):
    for i, name in enumerate("abc"):
        scan(tmp_path / "in" / f"{name}.nii.gz", i)
    broken = tmp_path / "in" / "a.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-200])
    with pytest.raises(InputError) as caught:
        predict_files(model(), tmp_path / "in", tmp_path / "out")
    assert {problem.case for problem in caught.value.problems} == {"a"}
    assert "a.nii.gz" in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.nii.gz", "c.nii.gz"]


def test_outputs_are_replaced_only_by_whole_new_ones(tmp_path):
    scan(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "out").mkdir()
    old = tmp_path / "out" / "a.nii.gz"
    old.write_bytes(b"old")
    whole = (tmp_path / "in" / "a.nii.gz").read_bytes()
    (tmp_path / "in" / "a.nii.gz").write_bytes(whole[:-100])
    with pytest.raises(InputError):
        predict_files(model(), tmp_path / "in", tmp_path / "out", overwrite=True)
    assert old.read_bytes() == b"old"
    (tmp_path / "in" / "a.nii.gz").write_bytes(whole)
    with pytest.raises(InputError, match=r"1 of 1 files already there \(a.nii.gz\)"):  # it may be a person's mask
        predict_files(model(), tmp_path / "in", tmp_path / "out")
    assert old.read_bytes() == b"old"
    predict_files(model(), tmp_path / "in", tmp_path / "out", overwrite=True)
    assert nib.load(old).shape == (9, 11, 7)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii.gz"]


def test_a_prediction_that_was_cut_short_goes_on_and_leaves_what_is_there(tmp_path):
    for name in "abc":
        scan(tmp_path / "in" / f"{name}.nii.gz")
    folders = tmp_path / "in", tmp_path / "out"
    predict_files(model(), *folders)
    (tmp_path / "out" / "b.nii.gz").unlink()
    drawn = tmp_path / "out" / "a.nii.gz"
    drawn.write_bytes(b"what a person has drawn")
    said = []
    assert predict_files(model(), *folders, resume=True, note=said.append) == [tmp_path / "out" / "b.nii.gz"]
    assert "2 of 3 masks were there already and are left as they are." in said
    assert drawn.read_bytes() == b"what a person has drawn"
    assert predict_files(model(), *folders, resume=True) == []
    with pytest.raises(InputError, match="--resume: found with --overwrite; expected one of the two"):
        predict_files(model(), *folders, resume=True, overwrite=True)


def test_a_place_that_takes_no_file_is_said_before_any_work(tmp_path):
    scan(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unwritable, match="file/out: the folder cannot be made"):
        predict_files(model(), tmp_path / "in", tmp_path / "file" / "out")


def test_input_is_never_written_over(tmp_path):
    scan(tmp_path / "in" / "a.nii.gz")
    before = (tmp_path / "in" / "a.nii.gz").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out in (tmp_path / "in", tmp_path / "link", tmp_path / "in" / "a.nii.gz"):
        with pytest.raises(InputError, match="the input itself"):
            predict_files(model(), tmp_path / "in" / "a.nii.gz", out)
    assert (tmp_path / "in" / "a.nii.gz").read_bytes() == before


def test_inputs_that_cannot_be_used_are_refused_before_any_work(tmp_path):
    with pytest.raises(InputError, match="input: found nothing"):
        predict_files(model(), tmp_path / "absent", tmp_path / "out")
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="no images"):
        predict_files(model(), tmp_path / "in", tmp_path / "out")
    scan(tmp_path / "in" / "a.nii.gz")
    scan(tmp_path / "in" / "a.nii")
    with pytest.raises(InputError, match="the same case as"):
        predict_files(model(), tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match=r"name: found \.png"):
        predict_files(model(), tmp_path / "in" / "a.nii", tmp_path / "x.png")
    assert not (tmp_path / "out").exists()


def test_pictures_become_png(tmp_path):
    picture = np.zeros((21, 34), np.uint8)
    picture[3:9, 20:] = 200
    Image.fromarray(picture).save(tmp_path / "p.png")
    said = []
    written = predict_files(model(dims=2), tmp_path / "p.png", tmp_path / "out", note=said.append)
    assert written == [tmp_path / "out" / "p.png"]
    assert said == ["Masks of pictures hold the numbers of the classes, 0 to 1: most viewers show them as black."]
    np.testing.assert_array_equal(np.asarray(Image.open(written[0])), picture // 200)


@pytest.mark.parametrize("names", [("grey",), COLOURS])
def test_digits_at_the_end_count_cases_where_one_file_holds_all_channels(tmp_path, names):
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"IMG_{number:04d}.jpg")
    assert [case.id for case in find_images(tmp_path, names)] == ["IMG_0000", "IMG_0001", "IMG_0002"]
    for number in range(3):
        alone = find_images(tmp_path / f"IMG_{number:04d}.jpg", names)
        assert [case.id for case in alone] == [f"IMG_{number:04d}"]
    (case,) = find_images(tmp_path, ("T1", "T2", "FLAIR"))
    assert (case.id, len(case.images)) == ("IMG", 3)


def test_what_is_odd_about_an_image_is_said(tmp_path):
    """The mask lies where the sform says; by the qform the image is shown 40 mm away."""
    for number in range(5):
        scan(tmp_path / "in" / f"{number}.nii.gz")
        image = nib.load(tmp_path / "in" / f"{number}.nii.gz")
        moved = AFFINE.copy()
        moved[1, 3] += 40
        image.set_qform(moved, 1)
        image.set_sform(AFFINE, 1)
        nib.save(image, tmp_path / "in" / f"{number}.nii.gz")
    said = []
    written = predict_files(model(), tmp_path / "in", tmp_path / "out", note=said.append)
    assert len(written) == 5
    for number, line in enumerate(said[:3]):
        assert f"{number}.nii.gz: sform, qform: found" in line
        assert "40.00 mm apart" in line
    assert said[3:] == ["sform, qform: 2 more like these."]
    said.clear()
    (tmp_path / "in" / "5.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"5\.nii\.gz"):
        predict_files(model(), tmp_path / "in", tmp_path / "out", note=said.append, overwrite=True)
    assert len(said) == 4
