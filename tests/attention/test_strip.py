"""A voxel's weight comes from the lines that run through it and beside it, and from nothing else."""

import pytest
import torch

from foveate.attention import StripPooling


@pytest.mark.parametrize("dims", [2, 3])
def test_a_weight_sees_the_lines_through_its_neighbourhood(dims):
    torch.manual_seed(0)
    block, side, middle = StripPooling(8, dims).double(), 7, 3
    torch.nn.init.constant_(block.join.weight, 0.1)
    for strip in block.strips:
        torch.nn.init.constant_(strip.bias, 10.0)  # no rectifier is shut
    x = torch.randn(1, 8, *[side] * dims, dtype=torch.float64, requires_grad=True)
    block.attention(x)[(0, 0, *[middle] * dims)].backward()
    grid = torch.stack(torch.meshgrid(*[torch.arange(side)] * dims, indexing="ij"))
    beside = (grid - middle).abs() <= 1
    expected = beside.sum(0) >= dims - 1  # at most one axis leaves the neighbourhood: along it runs the line
    assert torch.equal((x.grad[0] != 0).any(0), expected)
