"""Attention of every voxel to every other: non-local, dual attention, and what is refused."""

import pytest
import torch
from voxels import every_place, reaches, sharp

from foveate.attention import ATTENTION
from foveate.errors import InputError

CHANNELS = 16
SIZES = {2: (5, 7), 3: (3, 4, 5)}
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def by_hand(scores, values):
    """Row by row: a weighted mean of the values ``[N, C]``; and the weights."""
    weights = torch.stack([row.exp() / row.exp().sum() for row in scores])
    return torch.stack([sum(w * v for w, v in zip(row, values, strict=True)) for row in weights]), weights


@torch.no_grad()
@in_2d_and_3d
def test_non_local_is_the_equation(dims):
    block, x = sharp("non_local", CHANNELS, dims), torch.randn(2, CHANNELS, *SIZES[dims])
    theta, phi, g = block.qkv.weight.chunk(3)
    for image, found, weights in zip(x, block(x), block.attention(x), strict=True):
        voxels = image.flatten(1).T  # [N, C]
        joined, expected = by_hand((voxels @ theta.T) @ (voxels @ phi.T).T / len(theta) ** 0.5, voxels @ g.T)
        step = block.gamma * (joined @ block.project.weight.T + block.project.bias)
        torch.testing.assert_close(found, image + step.T.reshape(image.shape))
        torch.testing.assert_close(weights.flatten(), expected.mean(0))


@torch.no_grad()
@in_2d_and_3d
def test_position_is_the_equation_with_narrow_keys_and_wide_values(dims):
    block, x = sharp("position", CHANNELS, dims), torch.randn(2, CHANNELS, *SIZES[dims])
    b, c, d = block.qkv.weight.split((CHANNELS // 8, CHANNELS // 8, CHANNELS))
    for image, found, weights in zip(x, block(x), block.attention(x), strict=True):
        voxels = image.flatten(1).T
        joined, expected = by_hand((voxels @ b.T) @ (voxels @ c.T).T / len(b) ** 0.5, voxels @ d.T)
        torch.testing.assert_close(found, image + block.gamma * joined.T.reshape(image.shape))
        torch.testing.assert_close(weights.flatten(), expected.mean(0))


@torch.no_grad()
@in_2d_and_3d
def test_channel_is_the_equation_among_channels(dims):
    block, x = ATTENTION["channel"](CHANNELS, dims), torch.randn(2, CHANNELS, *SIZES[dims])
    for image, found, weights in zip(x, block(x), block.attention(x), strict=True):
        channels = image.flatten(1)  # [C, N]
        joined, expected = by_hand(channels @ channels.T / channels.shape[1], channels)
        torch.testing.assert_close(found, image + block.gamma * joined.reshape(image.shape))
        torch.testing.assert_close(weights.flatten(), expected.mean(0))


@in_2d_and_3d
def test_channels_attend_alike_at_every_size(dims):
    """Twice as many voxels of the same values: the same weights."""
    block, x = ATTENTION["channel"](CHANNELS, dims), torch.randn(2, CHANNELS, *SIZES[dims])
    torch.testing.assert_close(block.attention(torch.cat([x, x], 2)), block.attention(x))


@pytest.mark.parametrize("name", ["non_local", "position"])
@in_2d_and_3d
def test_every_voxel_is_reached_and_order_does_not_matter(name, dims):
    block, x = sharp(name, CHANNELS, dims), torch.randn(1, CHANNELS, *SIZES[dims])
    assert reaches(block, x, (0,) * dims) == set(every_place(SIZES[dims]))
    order = torch.randperm(x[0, 0].numel())
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    torch.testing.assert_close(block(shuffled).flatten(2), block(x).flatten(2)[..., order])


@pytest.mark.parametrize("name", ["non_local", "position"])
@pytest.mark.parametrize("size", [(91, 91), (8, 32, 33)])
def test_too_many_voxels_are_refused_with_the_way_out(name, size):
    block, x = ATTENTION[name](4, len(size)), torch.zeros(1, 4, *size)
    for call in (block, block.attention):
        with pytest.raises(InputError) as caught:
            call(x)
        assert f"{name} among {x[0, 0].numel()} voxels" in str(caught.value)
        assert "at most 8192 voxels" in str(caught.value)
        assert "linear" in str(caught.value)
