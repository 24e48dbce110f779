"""The weight of a voxel and channel is the channel's plus the voxel's."""

import pytest
import torch

from foveate.attention import SpatialChannelSqueezeExcite


@pytest.mark.parametrize("size", [(7, 10), (5, 6, 9)])
def test_is_the_sum_of_both_excitations(size):
    block, x = SpatialChannelSqueezeExcite(8, len(size)), torch.randn(2, 8, *size)
    weight, bias = block.of_voxels.weight.flatten(), block.of_voxels.bias
    by_voxel = torch.einsum("bc...,c->b...", x, weight).add(bias).sigmoid()[:, None] * x
    torch.testing.assert_close(block(x), block.of_channels(x) + by_voxel)
