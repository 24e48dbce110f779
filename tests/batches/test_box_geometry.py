"""Boxes go where their image goes: measured on the warped image itself."""

import pytest
import torch

from foveate.batches.augment import sample_geometry, sampling_grid, warp
from foveate.batches.boxes import IGNORED, PADDING, directions, pad_boxes, warp_boxes
from foveate.config import AugmentConfig


def ellipsoids(boxes: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """``[B, 1, *size]``: 1 inside the ellipsoid that each image's only box holds, soft over a voxel."""
    axes = torch.meshgrid(*(torch.arange(n) + 0.5 for n in size), indexing="ij")
    low, high = boxes[:, 0, :-1].chunk(2, dim=1)
    place = torch.stack(axes)[None]
    shape = (*low.shape, *[1] * len(size))
    middle, half = ((low + high) / 2).reshape(shape), ((high - low) / 2).reshape(shape)
    radius = ((place - middle) / half).square().sum(1, keepdim=True).sqrt()
    return ((1 - radius) * half.amin(1, keepdim=True) + 0.5).clamp(0, 1)


@pytest.mark.parametrize(("dims", "patch"), [(2, (64, 48)), (3, (32, 24, 28))])
def test_a_box_is_the_outline_of_its_warped_ellipsoid(dims: int, patch: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    region, spacing = tuple(n + 2 * (n // 8) for n in patch), (1.0, 1.5, 0.8)[:dims]
    middle = torch.tensor(region) / 2 + torch.randint(-3, 4, (6, dims), generator=generator)
    half = torch.tensor(patch) * 0.2
    boxes = torch.cat([middle - half, middle + half, torch.zeros(6, 1)], 1)[:, None]
    config = AugmentConfig(affine_p=1, elastic_p=1, elastic=0.03, shift=0.05)
    size = [n * s for n, s in zip(patch, spacing, strict=True)]
    geometry = sample_geometry(config, 6, size, (0,), generator)
    warped = warp(ellipsoids(boxes, region), sampling_grid(geometry, patch, region, spacing)) > 0.5
    found = warp_boxes(boxes, geometry, patch, region, spacing)
    for mask, box in zip(warped[:, 0], found[:, 0], strict=True):
        where = mask.nonzero()
        seen = torch.cat([where.amin(0), where.amax(0) + 1, torch.zeros(1)])
        assert (box - seen).abs().max() < 1.6, (box, seen)


def test_what_the_patch_does_not_show_is_padding_and_a_sliver_is_ignored() -> None:
    generator = torch.Generator().manual_seed(0)
    still = AugmentConfig(affine_p=0, elastic_p=0)
    geometry = sample_geometry(still, 1, (16, 16), (), generator)
    rows = [[4.0, 4, 8, 8, 1], [0, 4, 5, 8, 1], [0, 4, 3, 8, 1], [2, 4, 10, 8, PADDING]]
    boxes = warp_boxes(torch.tensor([rows]), geometry, (16, 16), (24, 24), (1.0, 1.0))
    # The patch is the middle of the region: 4 voxels off each side.
    assert boxes[0, 0].tolist() == pytest.approx([0, 0, 4, 4, 1], abs=1e-4)
    assert boxes[0, 1].tolist() == pytest.approx([0, 0, 1, 4, IGNORED], abs=1e-4)
    assert boxes[0, 2:, -1].tolist() == [PADDING, PADDING]


@pytest.mark.parametrize("dims", [2, 3])
def test_directions_are_unit_vectors_with_the_axes_among_them(dims: int) -> None:
    found = directions(dims)
    assert torch.allclose(found.norm(dim=1), torch.ones(len(found)), atol=1e-5)
    assert ((found @ torch.eye(dims)).amax(0) > 1 - 1e-5).all()


def test_images_without_boxes_are_padded() -> None:
    padded = pad_boxes([torch.zeros(0, 5), torch.ones(2, 5)], 2)
    assert padded.shape == (2, 2, 5)
    assert padded[0].eq(PADDING).all()
    assert pad_boxes([torch.zeros(0, 7)], 3).shape == (1, 1, 7)
