"""Prediction of boxes: the way back to the scan's own grid, windows, and the files that are written and scored."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import foveate
from foveate.batches.grid import Grid
from foveate.cohort.boxes import read_coco
from foveate.errors import InputError
from foveate.files import Unwritable
from foveate.io.volume import Volume
from foveate.metrics import evaluate
from foveate.predict.box_picture import draw_boxes
from foveate.predict.detecting import BoxPredictor, mirrored
from foveate.predict.files import predict_files
from foveate.tasks import Boxes, Detection
from foveate.tasks.detection import UNIT
from toys import tiny_plan


class BrightBlocks(nn.Module):
    """Stands for a trained network: a class of one channel, whose boxes are the bright blocks of an image, each of one
    brightness. Where a window cuts a block, it sees what is left of it."""

    def __init__(self, task: Detection) -> None:
        super().__init__()
        self.task = task

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for image in x[:, 0]:
            boxes = [[-1.0] * (2 * self.task.dims + 1)]
            for value in image.unique():
                if value > 0.5:
                    where = (image == value).nonzero()
                    boxes.append([*where.amin(0).tolist(), *(where.amax(0) + 1).tolist(), 0])
            rows.append(torch.tensor(boxes))
        size = [n // step for n, step in zip(x.shape[2:], self.task.stride, strict=True)]
        answers = [self.task.encode(boxes[None], size).values for boxes in rows]
        heats, distances, _ = self.task.parts(torch.cat(answers))
        return torch.cat([torch.logit(heats.clamp(1e-4, 1 - 1e-4)), (distances / UNIT).log()], 1)


def predictor(dims: int, patch: int = 32) -> BoxPredictor:
    plan = tiny_plan(dims, patch=(patch,) * dims, classes={"cell": 0}, task="detection")
    task = Detection(plan)
    return BoxPredictor(BrightBlocks(task), task, plan)


@pytest.mark.parametrize("dims", [2, 3])
def test_windows_find_what_one_look_finds(dims: int) -> None:
    which = predictor(dims, 16 if dims == 2 else 32)
    image = torch.zeros(1, *(80,) * dims)
    truth = [[3, 9], [20, 27], [41, 49], [70, 80]]
    for number, (low, high) in enumerate(truth):
        image[(0, *[slice(low, high)] * dims)] = 1 + number
    found = which.predict_prepared(image.numpy())
    boxes = found.boxes[found.boxes[:, 0].argsort()]
    torch.testing.assert_close(boxes, torch.tensor([[low] * dims + [high] * dims for low, high in truth]).float())


def test_boxes_come_back_to_the_grid_of_a_turned_scan() -> None:
    which = predictor(3)
    array = np.full((20, 40, 30), 50, np.float32)
    array[4:12, 10:22, 6:20] = 200
    affine = np.array([[0, 0, -1.0, 0], [1.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])
    (box,) = which.predict(Volume(array[None], affine)).boxes
    torch.testing.assert_close(box.float(), torch.tensor([4.0, 10, 6, 12, 22, 20]))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_grid_takes_boxes_there_and_back_as_it_takes_voxels(dims: int) -> None:
    shape = (12, 18, 15)[:dims]
    affine = np.eye(4) if dims == 2 else np.array([[0, -2.0, 0, 0], [1.0, 0, 0, 0], [0, 0, -1.5, 0], [0, 0, 0, 1]])
    plan = tiny_plan(dims, spacing=(1.0,) * dims)
    labels = np.zeros(shape, np.uint8)
    labels[(slice(2, 6), *[slice(3, 11)] * (dims - 1))] = 1
    grid = Grid.of(Volume(labels[None].astype(np.float32), affine), plan)
    box = np.array([[2.0, *[3.0] * (dims - 1), 6.0, *[11.0] * (dims - 1)]])
    there = grid.boxes_to_prepared(box)
    where = np.argwhere(grid.to_canonical(labels))
    factor = np.array(grid.prepared_shape) / np.array(grid.canonical_shape)
    expected = np.concatenate([where.min(0) * factor, (where.max(0) + 1) * factor])
    np.testing.assert_allclose(there[0], expected)
    np.testing.assert_allclose(grid.boxes_to_original(there), box)


def test_mirroring_boxes_is_mirroring_the_image() -> None:
    image = torch.zeros(10, 16)
    image[2:5, 7:9] = 1
    where = image.flip(1).nonzero()
    seen = torch.cat([where.amin(0), where.amax(0) + 1]).float()
    assert torch.equal(mirrored(torch.tensor([[2.0, 7, 5, 9]]), (1,), (10, 16))[0], seen)


def test_files_hold_the_boxes_and_are_scored(tmp_path: Path) -> None:
    which = predictor(2)
    (tmp_path / "data" / "images").mkdir(parents=True)
    boxes = {"a": (4, 8, 15, 20), "b": (10, 2, 24, 14)}
    for name, (top, left, bottom, right) in boxes.items():
        pixels = np.full((32, 32), 50, np.uint8)
        pixels[top:bottom, left:right] = 200
        Image.fromarray(pixels).save(tmp_path / "data" / "images" / f"{name}.png")
    data = {
        "images": [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(boxes)],
        "categories": [{"id": 3, "name": "cell"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 3, "bbox": [left, top, right - left, bottom - top]}
            for n, (top, left, bottom, right) in enumerate(boxes.values())
        ],
    }
    (tmp_path / "data" / "annotations.json").write_text(json.dumps(data))
    written = predict_files(which, tmp_path / "data", tmp_path / "out")
    assert [path.name for path in written] == ["predictions.json", "a.png", "b.png"]
    found = read_coco(tmp_path / "out" / "predictions.json")
    assert {name: [box.edges for box in item.boxes] for name, item in found.items()} == {
        "a.png": [pytest.approx(boxes["a"], abs=0.02)],
        "b.png": [pytest.approx(boxes["b"], abs=0.02)],
    }
    assert found["a.png"].shape == (32, 32)
    with Image.open(written[1]) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 3
    scores = evaluate(tmp_path / "out", tmp_path / "data", json=tmp_path / "scores.json")
    assert scores.to_json()["ap50"] == pytest.approx(1)
    stored = json.loads((tmp_path / "scores.json").read_text())
    assert stored["ap50/cell"] == stored["froc"] == pytest.approx(1)
    assert stored["ap50_interval"] == [1, 1]
    assert stored["cases"][0]["missed"] == 0


def test_pictures_never_replace_the_images_that_were_read(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    image = tmp_path / "pictures" / "a.png"
    Image.fromarray(np.full((32, 32), 50, np.uint8)).save(image)
    before = image.read_bytes()
    with pytest.raises(InputError, match="the input itself"):
        predict_files(predictor(2), tmp_path / "pictures", tmp_path)
    assert image.read_bytes() == before
    assert not (tmp_path / "predictions.json").exists()


def test_boxes_that_are_there_stay_where_no_image_could_be_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.json").write_text("earlier")
    with pytest.raises(InputError, match="already there"):
        predict_files(predictor(2), tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match=r"a\.png"):
        predict_files(predictor(2), tmp_path / "in", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "predictions.json").read_text() == "earlier"


@pytest.mark.parametrize(("height", "width"), [(0.2, 0.7), (1.0, 30.0), (30.0, 1.5), (2.0, 2.0)])
def test_boxes_of_less_than_two_pixels_are_drawn(height: float, width: float) -> None:
    volume = Volume(np.full((1, 1200, 1000), 50, np.float32), np.eye(4))  # large enough to be shown as it is
    box = torch.tensor([[500.0, 400, 500 + height, 400 + width]])
    names = ["cell"]
    (drawn, bare) = (
        np.asarray(Image.open(io.BytesIO(draw_boxes(volume, found, names))).convert("RGB"))
        for found in (Boxes(b, torch.zeros(len(b), dtype=torch.long), torch.ones(len(b))) for b in (box, box[:0]))
    )
    assert (drawn[500, 400] != bare[500, 400]).any()
    assert (drawn[:450] == bare[:450]).all()


def test_boxes_are_written_where_a_picture_cannot_be(tmp_path: Path) -> None:
    """A picture in the way of another is a small harm; the boxes of all images may be hours of work."""
    (tmp_path / "in").mkdir()
    for name in "abc":
        Image.fromarray(np.full((32, 32), 50, np.uint8)).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "out" / "pictures" / "b.png").mkdir(parents=True)
    with pytest.raises(Unwritable, match=r"b\.png: could not be written"):
        predict_files(predictor(2), tmp_path / "in", tmp_path / "out", overwrite=True)
    assert list(read_coco(tmp_path / "out" / "predictions.json")) == ["a.png", "b.png", "c.png"]
    assert (tmp_path / "out" / "pictures" / "c.png").is_file()


def test_names_as_long_as_file_systems_take(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    name = "n" * 251 + ".png"
    Image.fromarray(np.full((32, 32), 50, np.uint8)).save(tmp_path / "in" / name)
    written = predict_files(predictor(2), tmp_path / "in", tmp_path / "out")
    assert [path.name for path in written] == ["predictions.json", name]
    assert [path.name for path in (tmp_path / "out" / "pictures").iterdir()] == [name]


def test_channels_in_names_are_no_part_of_a_case(tmp_path: Path) -> None:
    (tmp_path / "imagesTr").mkdir()
    Image.fromarray(np.full((32, 32), 50, np.uint8)).save(tmp_path / "imagesTr" / "c1_0000.png")
    predict_files(predictor(2), tmp_path / "imagesTr", tmp_path / "out")
    assert list(read_coco(tmp_path / "out" / "predictions.json")) == ["c1.png"]


def test_a_detector_is_not_explained_and_what_to_do_instead_is_said(tmp_path: Path) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"no map of a detector is made.*foveate predict draws in OUT/pictures"):
        foveate.explain(predictor(2), tmp_path / "a.png", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_that_boxes_have_no_use_for_are_refused(tmp_path: Path) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    for options, words in (
        ({"views": 3}, "--views: found 3, and a model for detection"),
        ({"all_pieces": True}, "--all-pieces: found a model for detection"),
        ({"mirror": True}, "mirror_axes: found none"),
    ):
        with pytest.raises(InputError, match=words):
            predict_files(predictor(2), tmp_path / "a.png", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
