"""Shares of scales sum to 1, constants pass, and the order of scales is not built in."""

import pytest
import torch

from foveate.attention import PyramidPooling
from foveate.attention.spp import unpool
from foveate.layers import interpolate, mean_pool

SIZES = [(7, 11), (16, 8), (5, 7, 9), (1, 3, 17)]
every_size = pytest.mark.parametrize("size", SIZES)


def block_and_feature(size):
    torch.manual_seed(0)
    return PyramidPooling(8, len(size)), 3 * torch.randn(2, 8, *size)


@every_size
def test_shares_sum_to_one_and_constants_pass(size):
    block, x = block_and_feature(size)
    _, shares = block.scales(x)
    assert shares.shape == (2, 4, 1, *size)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 1, *size))
    level = torch.randn(2, 8, *[1] * len(size)).expand(-1, -1, *size)
    torch.testing.assert_close(block(level), level)


@every_size
def test_permuting_scales_with_their_weights_changes_nothing(size):
    block, x = block_and_feature(size)
    before, seen = block(x), block.attention(x)
    order = [2, 0, 3, 1]
    block.strides = [block.strides[i] for i in order]
    block.of_mean = torch.nn.ModuleList(block.of_mean[i] for i in order)
    for value in (block.of_voxel.weight, block.of_voxel.bias):
        value.data = value.data[order]
    torch.testing.assert_close(block(x), before)
    torch.testing.assert_close(block.attention(x), seen)


@every_size
def test_one_scale_alone_is_that_pyramid_level(size):
    block, x = block_and_feature(size)
    torch.nn.init.constant_(block.of_voxel.bias, -1e4)
    block.of_voxel.bias.data[0] = 1e4
    torch.testing.assert_close(block(x), x)
    assert (block.attention(x) == 0).all()


@every_size
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_means_come_back_as_interpolation_brings_them(size, stride):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    pooled = mean_pool(x, stride)
    expected = interpolate(pooled, [n * stride for n in pooled.shape[2:]])[:, :, *(slice(n) for n in size)]
    torch.testing.assert_close(unpool(pooled, stride, x), expected)


def test_means_of_blocks():
    x = torch.randn(1, 2, 6, 5)
    pooled = mean_pool(x, 2)
    assert pooled.shape == (1, 2, 3, 3)
    torch.testing.assert_close(pooled[0, 0, 1, 0], x[0, 0, 2:4, 0:2].mean())
    torch.testing.assert_close(pooled[0, 0, 2, 2], x[0, 0, 4:6, 4].mean())
