"""Attention along lines: criss-cross in one softmax, axial axis by axis."""

import pytest
import torch
from voxels import every_place, reaches, sharp

from foveate.attention import ATTENTION
from foveate.attention.axial import Line

CHANNELS = 32
SIZES = {2: (4, 6), 3: (3, 4, 5)}
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def cross(place, size):
    """The voxels that differ from a place in one coordinate at most."""
    return [other for other in every_place(size) if sum(a != b for a, b in zip(place, other, strict=True)) <= 1]


def crossed_by_hand(block, voxels, size):
    """One criss-cross pass over ``[N, C]``, voxel by voxel, and its weights ``[N, N]``."""
    q, k, v = block.qkv(voxels).split(block.widths, dim=-1)
    places, weights = every_place(size), torch.zeros(len(voxels), len(voxels))
    for i, place in enumerate(places):
        seen = [places.index(other) for other in cross(place, size)]
        weights[i, seen] = (k[seen] @ q[i] / q.shape[1] ** 0.5).softmax(0)
    return voxels + block.gamma * weights @ v, weights


@torch.no_grad()
@in_2d_and_3d
def test_criss_cross_attends_to_its_lines_in_one_softmax(dims):
    size = SIZES[dims]
    block, x = sharp("criss_cross", CHANNELS, dims), torch.randn(2, CHANNELS, *size)
    for image, found, received in zip(x, block(x), block.attention(x), strict=True):
        voxels, maps = image.flatten(1).T, []
        for _ in range(dims):
            voxels, weights = crossed_by_hand(block, voxels, size)
            maps.append(weights.mean(0))
        torch.testing.assert_close(found.flatten(1).T, voxels, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(received.flatten(), torch.stack(maps).mean(0))


@in_2d_and_3d
def test_one_pass_reaches_the_cross_and_one_per_axis_everything(dims):
    size = SIZES[dims]
    block, x = sharp("criss_cross", CHANNELS, dims), torch.randn(1, CHANNELS, *size)
    place = (1,) * dims
    block.passes = 1
    assert reaches(block, x, place) == set(cross(place, size))
    block.passes = dims - 1
    assert reaches(block, x, place) != set(every_place(size))
    block.passes = ATTENTION["criss_cross"](CHANNELS, dims).passes
    assert reaches(block, x, place) == set(every_place(size))


@in_2d_and_3d
def test_along_a_single_line_criss_cross_is_full_attention(dims):
    block = sharp("criss_cross", CHANNELS, dims)
    block.passes = 1
    x = torch.randn(2, CHANNELS, 9, *[1] * (dims - 1))
    q, k, v = block.qkv(x.flatten(2).mT).split(block.widths, dim=-1)
    joined = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(block(x), x + block.gamma * joined.mT.reshape(x.shape))


def lined_by_hand(line, x):
    """x + gamma W attention among the voxels of each line, line by line; x ``[*S, C]``."""
    out = x.clone()
    moved, result = x.movedim(line.axis - 1, -2), out.movedim(line.axis - 1, -2)
    received = torch.zeros(moved.shape[:-1])
    for place in every_place(moved.shape[:-2]):
        q, k, v = line.qkv(moved[place]).unflatten(-1, (3, line.heads, -1)).permute(1, 2, 0, 3)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)  # [heads, L, L]
        result[place] += line.gamma * line.project((weights @ v).transpose(0, 1).flatten(1))
        received[place] = weights.sum(1).mean(0)
    return out, received.movedim(-1, line.axis - 1) / received.numel()


@torch.no_grad()
@in_2d_and_3d
def test_axial_attends_along_one_axis_after_the_other(dims):
    block, x = sharp("axial", CHANNELS, dims), torch.randn(2, CHANNELS, *SIZES[dims])
    assert block.lines[0].heads == 2
    for image, found, received in zip(x, block(x), block.attention(x), strict=True):
        tokens, maps = image.movedim(0, -1), []
        for line in block.lines:
            tokens, weights = lined_by_hand(line, tokens)
            maps.append(weights)
        torch.testing.assert_close(found, tokens.movedim(-1, 0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(received[0], torch.stack(maps).mean(0))


@in_2d_and_3d
def test_an_axis_reaches_its_line_and_all_axes_everything(dims):
    size, place = SIZES[dims], (1,) * dims
    block, x = sharp("axial", CHANNELS, dims), torch.randn(1, CHANNELS, *size)
    for axis, line in enumerate(block.lines):
        assert isinstance(line, Line)
        reached = reaches(lambda x, line=line: line(x.movedim(1, -1)).movedim(-1, 1), x, place)
        assert reached == {(*place[:axis], n, *place[axis + 1 :]) for n in range(size[axis])}
    assert reaches(block, x, place) == set(every_place(size))
