"""Filled boxes and masks without images on their way into a batch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foveate.batches.filled_boxes import fill_boxes, prepare_boxes, prepare_masks
from foveate.batches.prepare import prepare_cohort
from foveate.batches.sampler import Sampler
from foveate.cohort.cohort import Box, Case, Cohort
from foveate.cohort.split import Split
from foveate.config import AugmentConfig
from foveate.io import write_label
from foveate.io.volume import Volume
from foveate.methods.adversarial_constraint import filled, unpack
from toys import STILL, tiny_plan

PLAN = tiny_plan(3, patch=(16, 16, 16))
BOX = Box((3.0, 4.0, 5.0, 9.0, 10.5, 12.0), "front")
TWO = (BOX, Box((6, 4, 5, 9, 12, 12), "2"))


def volume(shape=(20, 22, 18), affine=None):
    return Volume(np.zeros((1, *shape), np.uint8), np.eye(4) if affine is None else affine)


def cohort(folder: Path, boxes=TWO, affine=None) -> Cohort:
    """A case with boxes; its image is bright inside the first. Two masks of another size."""
    image, masks = volume(affine=affine), []
    image.array[:] = 100
    image.array[(0, *(slice(int(a), int(np.ceil(b))) for a, b in zip(BOX.low, BOX.high, strict=True)))] = 200
    write_label(folder / "x.nii", image.array[0], image)
    for value in (1, 2):
        mask = volume((17, 16, 19), affine)
        mask.array[0, 4:9, 4:9, 4 : 9 + value] = value
        write_label(folder / f"mask{value}.nii", mask.array[0], mask)
        masks.append(folder / f"mask{value}.nii")
    case = Case("x", (folder / "x.nii",), None, "x", boxes=tuple(boxes))
    return Cohort(folder, "plain", 3, (case,), ("MR",), dict(PLAN.classes), masks=tuple(masks))


def test_a_box_covers_every_voxel_that_it_touches_and_may_lie_over_another():
    found = fill_boxes([Box((1.0, 2.5, 3.0, 3.0), "front"), Box((2, 0, 4, 4), "2")], tiny_plan(2), (5, 4))
    assert found.tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [2, 2, 3, 2], [2, 2, 2, 2], [0, 0, 0, 0]]


# Axes in another order and direction, and voxels of 2 mm that are resampled to 1 mm.
TURNED = np.array([[0, -1.0, 0, 0], [0, 0, 1.0, 0], [-1.0, 0, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    "affine", [np.eye(4), TURNED, 2 * TURNED + np.diag([0, 0, 0, -1])], ids=["as is", "turned", "2 mm"]
)
def test_boxes_go_where_their_image_goes(tmp_path, affine):
    whole = cohort(tmp_path, boxes=(BOX,), affine=affine)
    prepared = prepare_cohort(whole, PLAN, tmp_path / "cache", 1)
    box = prepare_boxes(whole, PLAN, prepared, tmp_path / "cache")["x"]
    bright = np.asarray(prepared["x"].image[0]) > 0
    assert box.label.shape == bright.shape
    assert np.mean((box.label == 1) == bright) > 0.97
    assert (box.label == 1).sum() > 0


@pytest.mark.parametrize("augment", [STILL, AugmentConfig(rotation_degrees=0, elastic_p=0, affine_p=1)])
def test_boxes_of_a_batch_are_boxes_still_and_masks_come_with_no_image(tmp_path, augment):
    whole = cohort(tmp_path)
    prepared = prepare_cohort(whole, PLAN, tmp_path / "cache", 1)
    boxed = prepare_boxes(whole, PLAN, prepared, tmp_path / "cache")
    masks = prepare_masks(whole.masks, [], PLAN, tmp_path / "cache")
    split = Split((), (), ("x",))
    sampler = Sampler(prepared, PLAN, augment, split, 0, torch.device("cpu"), boxed=boxed, masks=masks)
    for step in range(4):
        batch = sampler.batch(step, sampler.read(step, 0, 3), 1)
        assert len(batch.images) == 0
        assert batch.pseudo is None
        assert batch.cases == ["x"] * 3
        assert batch.masks.shape == batch.boxes.shape == (3, *PLAN.patch)
        assert set(batch.masks.unique().tolist()) <= {0, 1, 2}
        assert batch.masks.any()
        regions = unpack(batch.boxes, 2)
        assert regions.any()
        assert torch.equal(regions, filled(regions))
        bright = batch.weak[:, 0] > 0
        assert (bright == regions[:, 0].bool()).float().mean() > 0.95


def test_masks_are_in_the_order_of_their_content(tmp_path):
    whole = cohort(tmp_path)
    (tmp_path / "cache").mkdir()
    first = prepare_masks(whole.masks, [], PLAN, tmp_path / "cache")
    again = prepare_masks(whole.masks[::-1], [], PLAN, tmp_path / "cache")
    assert list(first) == list(again)
    twice = prepare_masks(whole.masks, list(first.values()), PLAN, tmp_path / "cache")
    assert len(twice) == 4
    assert all(np.array_equal(first[key].label, again[key].label) for key in first)


def test_a_label_has_the_place_of_boxes(tmp_path):
    whole = cohort(tmp_path)
    labelled = replace(whole.cases[0], label=whole.cases[0].images[0])
    prepared = prepare_cohort(whole, PLAN, tmp_path / "cache", 1)
    assert prepare_boxes(replace(whole, cases=(labelled,)), PLAN, prepared, tmp_path / "cache") == {}
