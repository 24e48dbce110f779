"""Pictures of boxes in volumes lie as all others of the program, whatever the order of the file's axes."""

import io

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from foveate.io import Volume
from foveate.predict.box_picture import draw_boxes
from foveate.tasks import Boxes

SHAPE = (40, 36, 12)  # left to right, back to front, bottom to top
LOW, HIGH = (24, 22, 7), (34, 32, 9)  # in the patient's left, front, upper part
BLUE = np.array([0x56, 0xB4, 0xE9])  # the colour of the second class


def stored_as(code: str) -> tuple[Volume, np.ndarray]:
    """The scan, slices 3 mm apart and bright in the box, with its axes as ``code`` says; and the box in its voxels."""
    image = np.zeros(SHAPE, np.float32)
    image[tuple(map(slice, LOW, HIGH))] = 100
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(code))
    affine = np.diag([1.0, 1.0, 3.0, 1.0]) @ nib.orientations.inv_ornt_aff(turn, SHAPE)
    array = nib.orientations.apply_orientation(image, turn)
    places = np.argwhere(array > 0)
    return Volume(array[None], affine), np.concatenate([places.min(axis=0), places.max(axis=0) + 1])


@pytest.mark.parametrize("code", ["RAS", "LPS", "LAS", "PIR", "SAL"])
def test_a_box_of_a_volume_lies_where_radiologists_look_for_it(code: str) -> None:
    volume, box = stored_as(code)
    assert "".join(nib.aff2axcodes(volume.affine)) == code
    found = Boxes(torch.tensor(box[None], dtype=torch.float32), torch.tensor([1]), torch.tensor([0.9]))
    picture = Image.open(io.BytesIO(draw_boxes(volume, found, ["a", "b"])))
    pixels = np.asarray(picture).astype(int)
    scale = 900 / 40
    slice_ = pixels[: round(36 * scale)]
    # The patient's left is on the right, the front above: columns 40 - 34 to 40 - 24, rows 36 - 32 to 36 - 22.
    rows, columns = np.nonzero(np.abs(slice_ - BLUE).max(axis=2) < 8)
    assert [rows.max(), columns.min(), columns.max()] == pytest.approx([14 * scale, 6 * scale, 16 * scale], abs=3)
    # What is bright fills the box.
    inside = slice_[round(5 * scale) : round(13 * scale), round(7 * scale) : round(15 * scale)]
    assert inside.min() > 200
    reference, _ = stored_as("RAS")
    upright = draw_boxes(
        reference, Boxes(torch.tensor([[*LOW, *HIGH]]).float(), found.classes, found.scores), ["a", "b"]
    )
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(upright))))  # its letters and number too


def test_a_box_that_the_slice_does_not_meet_is_not_drawn() -> None:
    volume, box = stored_as("RAS")
    below = box - [20, 20, 6, 20, 20, 6]
    classes, scores = torch.tensor([1, 1]), torch.tensor([0.9, 0.8])
    both = Boxes(torch.tensor(np.stack([box, below]), dtype=torch.float32), classes, scores)
    one = Boxes(both.boxes[:1], classes[:1], scores[:1])
    assert draw_boxes(volume, both, ["a", "b"]) == draw_boxes(volume, one, ["a", "b"])
