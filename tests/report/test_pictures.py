"""What the pictures show: the right side, the right proportions, the right outline."""

import io

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from foveate.report.pictures import PALETTE, case_views, curve_picture
from foveate.slices import to_draw

SHAPE, SPACING = (40, 36, 30), (1.0, 1.0, 1.0)


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def scan() -> tuple[np.ndarray, np.ndarray]:
    """RAS volume, bright in the patient's right, front, upper corner; the structure fills the middle."""
    image = np.zeros(SHAPE, dtype=np.float32)
    image[20:, 18:, 15:] = 100.0
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[12:28, 10:26, 8:22] = 1
    return image, label


def bright_quadrant(png: bytes) -> tuple[str, str]:
    grey = pixels(png).min(axis=2)
    half_rows, half_columns = grey.shape[0] // 2, grey.shape[1] // 2
    sums = {
        ("top", "left"): grey[:half_rows, :half_columns].mean(),
        ("top", "right"): grey[:half_rows, half_columns:].mean(),
        ("bottom", "left"): grey[half_rows:, :half_columns].mean(),
        ("bottom", "right"): grey[half_rows:, half_columns:].mean(),
    }
    best = max(sums, key=lambda place: sums[place])
    assert sums[best] > 3 * sorted(sums.values())[-2]
    return best


@pytest.mark.parametrize("code", ["RAS", "LPS", "LAS", "PIR", "SAL"])
def test_the_patients_right_is_on_the_left_however_the_file_is_stored(code: str) -> None:
    image, label = scan()
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(code))
    affine = nib.orientations.inv_ornt_aff(turn, SHAPE)
    stored = [nib.orientations.apply_orientation(array, turn) for array in (image, label)]
    assert "".join(nib.aff2axcodes(affine)) == code
    axial, coronal, sagittal = case_views(stored[0], SPACING, None, stored[1], [(1,)], affine)
    assert [view.title.split(",")[0] for view in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]
    assert bright_quadrant(axial.png) == ("top", "left")  # front, right
    assert bright_quadrant(coronal.png) == ("top", "left")  # upper, right
    assert bright_quadrant(sagittal.png) == ("top", "left")  # upper, front


def test_a_colour_picture_is_shown_in_its_colours_and_modalities_are_not() -> None:
    image = np.zeros((3, 30, 40), np.float32)
    image[0, :, :20], image[1, :, 20:] = 200, 150
    shown = pixels(
        case_views(to_draw(image, ("red", "green", "blue")), (1.0, 1.0), None, np.zeros((30, 40)), [])[0].png
    )
    left, right = shown[:, 10:150].mean((0, 1)), shown[:, -150:-10].mean((0, 1))
    assert left[0] > 150 > 50 > left[1:].max()
    assert right[1] > 100 > 50 > right[[0, 2]].max()
    image[0] = np.nan  # the first modality is missing
    assert np.array_equal(to_draw(image, ("T1", "T2", "FLAIR")), image[1])


def test_proportions_are_those_of_the_body() -> None:
    image, label = scan()
    label[12:28, 10:26, 4:26] = 1  # so large that the whole scan is shown
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    axial, coronal, sagittal = case_views(image, (1.0, 1.0, 4.0), label, label, [(1,)], affine)
    for view, ratio in ((axial, 36 / 40), (coronal, 4 * 30 / 40), (sagittal, 4 * 30 / 36)):
        height, width, _ = pixels(view.png).shape
        assert height / width == pytest.approx(ratio, rel=0.02)


def test_the_slice_is_the_one_where_the_structure_is_largest() -> None:
    image, label = scan()
    label[12:28, 10:26, 18] = 0
    label[5:35, 5:30, 11] = 1
    views = case_views(image, SPACING, label, np.zeros_like(label), [(1,)], np.eye(4))
    assert views[0].title == "axial, slice 12 of 30"


def test_label_is_solid_prediction_dashed_each_in_the_colour_of_its_class() -> None:
    image = np.zeros((40, 40), dtype=np.float32)
    empty, labels = np.zeros((2, 40, 40), dtype=np.uint8)
    labels[8:32, 8:18] = 1
    labels[8:32, 22:32] = 2
    drawn = {}
    for name, label, prediction in (("label", labels, empty), ("prediction", empty, labels)):
        (view,) = case_views(image, (1.0, 1.0), label, prediction, [(1,), (2,)])
        found = pixels(view.png)
        for colour in PALETTE[:2]:
            wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            drawn[name, colour] = int((np.abs(found - wanted).max(axis=2) < 40).sum())
    for colour in PALETTE[:2]:
        assert drawn["label", colour] > 100
        assert 0.3 < drawn["prediction", colour] / drawn["label", colour] < 0.95  # the gaps between the dashes


def test_a_large_scan_is_enlarged_around_the_structure() -> None:
    image = np.zeros((300, 300), dtype=np.float32)[..., None].repeat(40, axis=2)
    label = np.zeros(image.shape, dtype=np.uint8)
    label[140:160, 150:180, 15:25] = 1
    axial = case_views(image, SPACING, label, label, [(1,)], np.eye(4))[0]
    height, width, _ = pixels(axial.png).shape
    assert height / width == pytest.approx((30 + 40) / (20 + 40), rel=0.02)  # 20 mm on every side


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_curves_skip_what_is_not_there(theme: str) -> None:
    records = [{"step": i, "loss": float("nan") if i == 3 else 1.0 / (i + 1), "dice": None} for i in range(200)]
    assert curve_picture({"run": records}, "dice", "Validation Dice", theme) is None
    png = curve_picture({"run": records, "empty": []}, "loss", "Loss", theme)
    assert png is not None
    assert pixels(png).shape[1] > 400
