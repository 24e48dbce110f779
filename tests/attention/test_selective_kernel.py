"""The answer lies between a kernel of 3 and one of 5, where the whole image says."""

import pytest
import torch

from foveate.attention import SelectiveKernel


@pytest.mark.parametrize("size", [(5, 4), (3, 4, 5)])
@pytest.mark.parametrize(("push", "chosen"), [(1e4, "large"), (-1e4, "small")])
def test_chooses_either_branch(size, push, chosen):
    block, x = SelectiveKernel(8, len(size)), torch.randn(2, 8, *size)
    torch.nn.init.ones_(block.squeeze.bias)
    torch.nn.init.zeros_(block.squeeze.weight)
    torch.nn.init.constant_(block.choose.weight, push)
    torch.testing.assert_close(block(x), getattr(block, chosen)(x))


def test_is_the_softmax_over_two_branches_of_the_equations():
    block, x = SelectiveKernel(8, 2), torch.randn(2, 8, 6, 7)
    branches = torch.stack([block.small(x), block.large(x)])
    z = block.squeeze(branches.sum(0).mean((2, 3))).relu()
    shares = torch.stack([torch.zeros(2, 8), block.choose(z)]).softmax(0)
    torch.testing.assert_close(block(x), (shares[..., None, None] * branches).sum(0))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_large_kernel_reaches_five_voxels(dims):
    x = torch.zeros(1, 8, *[9] * dims)
    x[(0, 0, *[4] * dims)] = 1
    reached = SelectiveKernel(8, dims).large[0](x)[0].abs().sum(0) > 0
    assert reached.nonzero().amin(0).tolist() == [2] * dims
    assert reached.nonzero().amax(0).tolist() == [6] * dims
