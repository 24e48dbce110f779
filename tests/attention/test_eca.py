"""A channel's weight comes from the means of its neighbours alone."""

import pytest
import torch

from foveate.attention import EfficientChannelAttention
from foveate.attention.eca import kernel


def test_kernel_sizes_of_the_paper():
    assert [kernel(channels) for channels in (16, 64, 128, 256, 512)] == [3, 3, 5, 5, 5]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_channel_sees_its_neighbours_and_no_order_of_voxels(dims):
    block, x = EfficientChannelAttention(16, dims), torch.randn(1, 16, *[4] * dims)
    torch.testing.assert_close(block.attention(x.flip(2)), block.attention(x))
    changed = x.clone()
    changed[:, 7] += 1
    moved = (block.attention(changed) - block.attention(x)).flatten().abs() > 1e-7
    assert moved.nonzero().flatten().tolist() == [6, 7, 8]
