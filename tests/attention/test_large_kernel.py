"""A weight sees a box of 23 voxels per axis: 5, and 7 with dilation 3."""

import pytest
import torch

from foveate.attention import LargeKernelAttention


@pytest.mark.parametrize("dims", [2, 3])
def test_a_weight_sees_the_whole_box_and_no_more(dims):
    torch.manual_seed(0)
    block, side = LargeKernelAttention(2, dims).double(), 25
    x = torch.randn(1, 2, *[side] * dims, dtype=torch.float64, requires_grad=True)
    block.branch(x)[(0, 0, *[side // 2] * dims)].backward()
    inside = torch.zeros([side] * dims, dtype=torch.bool)
    inside[(slice(1, -1),) * dims] = True
    assert torch.equal((x.grad[0] != 0).all(0), inside)
    torch.testing.assert_close(block(x), x * block.branch(x))
