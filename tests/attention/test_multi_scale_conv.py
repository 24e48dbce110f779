"""A weight sees a box of 25 voxels per axis, not a plus; where x is zero the answer is."""

import pytest
import torch

from foveate.attention import MultiScaleConv


@pytest.mark.parametrize("dims", [2, 3])
def test_a_weight_sees_the_whole_box_and_no_more(dims):
    torch.manual_seed(0)
    block, side = MultiScaleConv(2, dims).double(), 27
    x = torch.randn(1, 2, *[side] * dims, dtype=torch.float64, requires_grad=True)
    block.branch(x)[(0, 0, *[side // 2] * dims)].backward()
    inside = torch.zeros([side] * dims, dtype=torch.bool)
    inside[(slice(1, -1),) * dims] = True
    assert torch.equal((x.grad[0] != 0).all(0), inside)


@pytest.mark.parametrize("dims", [2, 3])
def test_zero_stays_zero_at_a_voxel(dims):
    block, x = MultiScaleConv(8, dims), torch.randn(1, 8, *[6] * dims)
    place = (0, slice(None), *[2] * dims)
    x[place] = 0
    out = block(x)
    assert (out[place] == 0).all()
    assert (out != 0).sum() == (x != 0).sum()


def test_every_scale_takes_part():
    block, x = MultiScaleConv(8, 3), torch.randn(1, 8, 6, 6, 6)
    before = block(x)
    for scale in block.scales:
        kept = scale.weight.detach().clone()
        torch.nn.init.zeros_(scale.weight)
        assert not torch.allclose(block(x), before, atol=1e-6)
        scale.weight.data.copy_(kept)
