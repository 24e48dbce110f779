"""Operations on boxes against counting voxels and against the definition."""

import itertools
import resource

import numpy as np
import pytest
import torch

from foveate.boxes import giou, iou, suppress, volumes


def random_boxes(count: int, dims: int, seed: int) -> torch.Tensor:
    """Boxes with whole corners in 0 to 12, so that their voxels can be counted."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 8, (count, dims), generator=generator)
    return torch.cat([low, low + torch.randint(1, 5, (count, dims), generator=generator)], 1).double()


def voxels(box: torch.Tensor) -> set[tuple[int, ...]]:
    low, high = box.long().chunk(2)
    return set(itertools.product(*(range(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))))


@pytest.mark.parametrize("dims", [2, 3])
def test_iou_and_giou_are_those_of_counted_voxels(dims: int) -> None:
    a, b = random_boxes(8, dims, 0), random_boxes(8, dims, 1)
    for i, j in itertools.product(range(8), repeat=2):
        one, other = voxels(a[i]), voxels(b[j])
        share = len(one & other) / len(one | other)
        hull = torch.cat([torch.minimum(a[i], b[j])[:dims], torch.maximum(a[i], b[j])[dims:]])
        around = len(voxels(hull))
        assert iou(a, b)[i, j].item() == pytest.approx(share)
        assert giou(a[i], b[j]).item() == pytest.approx(share - (around - len(one | other)) / around)
        assert volumes(a)[i].item() == len(one)


def test_giou_still_tells_near_from_far_where_boxes_do_not_meet() -> None:
    box = torch.tensor([0.0, 0, 2, 2])
    near, far = torch.tensor([3.0, 0, 5, 2]), torch.tensor([9.0, 0, 11, 2])
    assert -1 < giou(box, far) < giou(box, near) < 0


@pytest.mark.parametrize("dims", [2, 3])
def test_suppression_is_the_greedy_one_within_each_class(dims: int) -> None:
    boxes = random_boxes(60, dims, 2)
    scores = torch.rand(60, generator=torch.Generator().manual_seed(3))
    classes = torch.arange(60) % 3
    stays: list[int] = []
    for i in np.argsort(-scores.numpy()):
        rivals = [j for j in stays if classes[j] == classes[i]]
        if all(iou(boxes[i : i + 1], boxes[j : j + 1]).item() <= 0.3 for j in rivals):
            stays.append(int(i))
    kept = suppress(boxes, scores, classes, 0.3)
    assert kept.tolist() == stays
    assert 3 < len(stays) < 60
    assert suppress(boxes[:0], scores[:0], classes[:0], 0.3).tolist() == []


def test_suppression_of_many_boxes_is_the_greedy_one_in_little_memory() -> None:
    """As many as a large picture has; all in pairs they would take 256 MB for each of their numbers."""
    random = torch.Generator().manual_seed(4)
    middle = torch.rand(8_000, 2, generator=random) * 230
    side = 4 + 8 * torch.rand(8_000, 2, generator=random)
    boxes, scores = torch.cat([middle - side, middle + side], 1), torch.rand(8_000, generator=random)
    classes = torch.arange(8_000) % 2
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = suppress(boxes, scores, classes, 0.5)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    left, stays = scores.argsort(descending=True, stable=True), []
    while len(left):
        best, left = left[0], left[1:]
        stays.append(int(best))
        left = left[(iou(boxes[best][None], boxes[left])[0] <= 0.5) | (classes[left] != classes[best])]
    assert kept.tolist() == stays
    assert 1000 < len(stays) < 7000
