"""Detection: what is encoded comes back, and what each loss asks for."""

import math

import pytest
import torch
from torch import Tensor

from foveate.batches.boxes import IGNORED, PADDING
from foveate.tasks.detection import UNIT, Boxes, Detection, map_strides, output_stage
from foveate.tasks.segmentation import Target
from toys import tiny_plan


def task(dims: int = 2) -> Detection:
    return Detection(tiny_plan(dims, patch=(32,) * dims, classes={"a": 0, "b": 1}))


def labels(dims: int = 2) -> Tensor:
    """Two boxes of the first image and one of the second, of two classes."""
    rows = [[[2.0] * dims + [12.0] * dims + [0], [13.0] * dims + [31.0] * dims + [1]]]
    rows += [[[5.0] * dims + [20.0] * dims + [1], [-1.0] * (2 * dims) + [PADDING]]]
    return torch.tensor(rows)


def perfect(which: Detection, target: Target) -> Tensor:
    """Logits that answer a target exactly."""
    heats, distances, _ = which.parts(target.values)
    return torch.cat([torch.logit(heats.clamp(1e-4, 1 - 1e-4)), (distances / UNIT).log()], 1)


@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_encoded_is_decoded(dims: int) -> None:
    which = task(dims)
    found = which.decode(perfect(which, which.encode(labels(dims))), 0.5)
    assert [len(item.scores) for item in found] == [2, 1]
    for item, truth in zip(found, labels(dims), strict=True):
        order = item.classes.argsort()
        real = truth[truth[:, -1] >= 0]
        torch.testing.assert_close(item.boxes[order], real[:, :-1])
        assert item.classes[order].tolist() == real[:, -1].tolist()
        assert (item.scores > 0.99).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_bells_are_gaussians_that_are_one_at_the_cell_of_the_middle(dims: int) -> None:
    which = task(dims)
    box = torch.tensor([[[0.0] * dims + [24.0] * dims]])
    bell = which.bells(box, which.size)[0, 0]
    sigma = 24 / which.stride[0] * 0.54 / 6
    middle = tuple(12 // step for step in which.stride)
    assert bell[middle] == bell.max() == 1
    aside = (middle[0] + 1, *middle[1:])
    assert bell[aside].item() == pytest.approx(math.exp(-1 / (2 * sigma**2)) if 3 * sigma >= 1 else 0)


def test_every_box_teaches_alike_and_the_smallest_has_a_cell() -> None:
    which = task()
    boxes = torch.tensor([[[0.0, 0, 32, 32, 0], [12, 12, 18, 18, 1]]])
    target = which.encode(boxes)
    heats, distances, share = which.parts(target.values)
    assert share.sum().item() == pytest.approx(2, abs=1e-5)
    cell = tuple(15 // step for step in which.stride)
    height = distances[0, 0][cell] + distances[0, 2][cell]
    assert height.item() == pytest.approx(6)
    assert heats[0, 1][cell] == 1
    empty = which.encode(boxes[:, :0])
    assert not which.parts(empty.values)[2].any()
    assert empty.weight.all()


def test_an_ignored_box_neither_pulls_nor_pushes() -> None:
    which = task()
    boxes = torch.tensor([[[0.0, 0, 14, 14, IGNORED], [16, 16, 32, 32, 0]]])
    target = which.encode(boxes)
    logits = torch.zeros(1, which.channels, *which.size, requires_grad=True)
    sum(which.loss(logits, target).values()).backward()  # type: ignore[union-attr]
    assert logits.grad is not None
    inside = tuple(slice(0, 14 // step) for step in which.stride)
    assert not logits.grad[0, :, *inside].any()
    assert logits.grad[0, 0].any()


def test_losses_vanish_at_the_target_and_grow_with_every_fault() -> None:
    which = task()
    target = which.encode(labels())
    logits = perfect(which, target)
    exact = which.loss(logits, target)
    assert exact["giou"].item() == pytest.approx(0, abs=1e-5)
    moved, blind, seeing = logits.clone(), logits.clone(), logits.clone()
    moved[:, which.kinds :] += 0.5
    blind[:, : which.kinds] = -9
    seeing[:, : which.kinds] = 9
    assert which.loss(moved, target)["giou"] > 0.1
    assert which.loss(blind, target)["focal"] > exact["focal"] + 1
    assert which.loss(seeing, target)["focal"] > exact["focal"] + 1


def test_focal_loss_is_that_of_the_paper() -> None:
    which = task()
    target = which.encode(labels())
    logits = torch.randn(2, which.channels, *which.size, generator=torch.Generator().manual_seed(0))
    expected, peaks = 0.0, 0
    heats = which.parts(target.values)[0]
    for p, y in zip(logits[:, : which.kinds].sigmoid().flatten().tolist(), heats.flatten().tolist(), strict=True):
        peaks += y == 1
        expected -= (1 - p) ** 2 * math.log(p) if y == 1 else (1 - y) ** 4 * p**2 * math.log(1 - p)
    assert peaks == 3
    assert which.loss(logits, target)["focal"].item() == pytest.approx(expected / 3, rel=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_sure_teacher_teaches_its_boxes_and_an_unsure_one_says_nothing_there(dims: int) -> None:
    which = task(dims)
    target = which.encode(labels(dims))
    logits = perfect(which, target)
    sure = which.pseudo_label(logits, 0.5)
    torch.testing.assert_close(sure.values, target.values)
    assert sure.weight.all()
    logits[:, 1] -= torch.logit(torch.tensor(0.9999)) - torch.logit(torch.tensor(0.3))  # class b: score 0.3
    unsure = which.pseudo_label(logits, 0.5)
    assert not which.parts(unsure.values)[0][:, 1].any()
    middle = tuple(22 // step for step in which.stride)
    assert unsure.weight[0, 0][middle] == 0
    assert unsure.weight[0, 0].flatten()[0] == 1
    assert which.harden(sure) is sure


def test_of_boxes_that_overlap_the_best_stays() -> None:
    which = task()
    logits = torch.full((1, which.channels, *which.size), -9.0)
    logits[:, which.kinds :] = 0
    cells = [(1, 1), (1, 3), (6, 6)] if which.size[0] > 6 else [(0, 0), (0, 2), (3, 3)]
    for cell, score in zip(cells, (2.0, 1.0, 0.5), strict=True):
        logits[0, 0, *cell] = score
    (found,) = which.decode(logits)
    assert isinstance(found, Boxes)
    expected = torch.tensor([2.0, 0.5]).sigmoid() if len(found.scores) == 2 else torch.tensor([2.0, 1, 0.5]).sigmoid()
    torch.testing.assert_close(found.scores, expected)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= 32).all()


def test_the_map_lies_on_the_coarsest_stage_of_at_most_four_voxels() -> None:
    plan = tiny_plan(3, strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)), widths=(4, 4, 4, 4))
    assert map_strides(plan) == [(1, 1, 1), (1, 2, 2), (2, 4, 4), (4, 8, 8)]
    assert output_stage(plan) == 2
