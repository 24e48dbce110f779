"""Neighbourhood attention against attention voxel by voxel, at the border above all."""

import pytest
import torch
import torch.nn.functional as F
from voxels import every_place, reaches, sharp

from foveate.attention.dot_product import join_heads, split_heads
from foveate.attention.neighbourhood import KERNEL, TILE

CHANNELS = 32
SIZES = {2: [(7, 7), (9, 20), (3, 17), (8, 16), (1, 12)], 3: [(5, 5, 5), (4, 6, 9), (2, 7, 5), (8, 4, 6)]}
every_size = pytest.mark.parametrize("size", [size for sizes in SIZES.values() for size in sizes])


def neighbours(place, size):
    """The kernel around a place, moved inwards at the border; an axis shorter than the kernel whole."""
    ranges = []
    for a, n in zip(place, size, strict=True):
        k = min(KERNEL[len(size)], n)
        start = min(max(a - k // 2, 0), n - k)
        ranges.append(range(start, start + k))
    return {other for other in every_place(size) if all(a in r for a, r in zip(other, ranges, strict=True))}


def full(block, x, seen=None):
    """Attention of all voxels to those they see ``[N, N]``, and the weights ``[B, h, N, N]``."""
    q, k, v = (split_heads(part, block.heads) for part in block.qkv(x.flatten(2).mT).chunk(3, dim=-1))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    weights = (scores if seen is None else scores.masked_fill(~seen, -torch.inf)).softmax(-1)
    return x + block.gamma * block.project(join_heads(weights @ v)).mT.reshape(x.shape), weights


@torch.no_grad()
@every_size
def test_a_voxel_attends_to_its_neighbourhood(size):
    block, x = sharp("neighbourhood", CHANNELS, len(size)), torch.randn(2, CHANNELS, *size)
    places = every_place(size)
    seen = torch.tensor([[other in near for other in places] for near in (neighbours(p, size) for p in places)])
    expected, weights = full(block, x, seen)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block.attention(x).flatten(1), weights.mean((1, 2)))


@every_size
def test_a_border_query_has_as_many_keys_as_any_other(size):
    block, x = sharp("neighbourhood", CHANNELS, len(size)), torch.randn(1, CHANNELS, *size)
    expected = torch.tensor([min(KERNEL[len(size)], n) for n in size]).prod()
    for place in [(0,) * len(size), tuple(n // 2 for n in size), tuple(n - 1 for n in size)]:
        reached = reaches(block, x, place)
        assert reached == neighbours(place, size)
        assert len(reached) == expected


@torch.no_grad()
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("smaller", [0, 1])
def test_a_window_as_large_as_the_image_is_full_attention(dims, smaller):
    size = (KERNEL[dims], *[KERNEL[dims] - smaller] * (dims - 1))
    block, x = sharp("neighbourhood", CHANNELS, dims), torch.randn(2, CHANNELS, *size)
    torch.testing.assert_close(block(x), full(block, x)[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dims", [2, 3])
def test_constant_weights_are_a_convolution(dims):
    """Without queries, what is left is a mean over the window: a convolution wherever the window fits."""
    block = sharp("neighbourhood", CHANNELS, dims)
    block.qkv.weight[:CHANNELS] = 0
    kernel, size = KERNEL[dims], (TILE[dims] + KERNEL[dims] + 1,) * dims
    x = torch.randn(1, CHANNELS, *size)
    value = (block.project.weight @ block.qkv.weight[2 * CHANNELS :]).reshape(CHANNELS, CHANNELS, *[1] * dims)
    weight = value.expand(-1, -1, *[kernel] * dims) / kernel**dims
    convolved = (F.conv2d if dims == 2 else F.conv3d)(x, weight, block.project.bias)
    inside = (..., *[slice(kernel // 2, -(kernel // 2))] * dims)
    torch.testing.assert_close((block(x) - x)[inside], block.gamma * convolved, rtol=1e-4, atol=1e-5)


def test_few_copies_of_the_keys_are_held():
    """Of keys and values 8 copies in 3D, where unfolded windows are 125."""
    block = sharp("neighbourhood", CHANNELS, 3)
    _, k, v, _ = block.embed(torch.randn(1, CHANNELS, 16, 16, 16))
    assert k.numel() == v.numel() == 8 * CHANNELS * 16**3
