"""Layers that compute what others compute, in less time: the others are the reference."""

import pytest
import torch
from torch import nn

from foveate.layers import JoiningConv, convolve_planes, instance_norm

SIZES = {2: (7, 10), 3: (5, 6, 9)}
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


@in_2d_and_3d
def test_joining_convolution_is_that_of_the_joined_feature(dims):
    joining = JoiningConv(dims, 4, 6)
    joined = {2: nn.Conv2d, 3: nn.Conv3d}[dims](8, 6, 3, padding=1, bias=False)
    joined.weight = joining.weight
    x, other = (torch.randn(2, 4, *SIZES[dims], requires_grad=True) for _ in range(2))
    out, expected = joining(x, other), joined(torch.cat([x, other], dim=1))
    torch.testing.assert_close(out, expected)
    inputs, g = (x, other, joining.weight), torch.randn_like(out)
    torch.testing.assert_close(torch.autograd.grad(out, inputs, g), torch.autograd.grad(expected, inputs, g))


@in_2d_and_3d
def test_instance_norm_is_that_of_torch(dims):
    ours = instance_norm(4)
    theirs = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims](4, affine=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    x = 3 + 2 * torch.randn(2, 4, *SIZES[dims])
    torch.testing.assert_close(ours(x), theirs(x))


def test_convolution_by_planes_is_the_convolution_and_has_its_gradients():
    layer = torch.nn.Conv3d(2, 1, 5, padding=2)
    x = torch.randn(2, 2, 5, 6, 7, requires_grad=True)
    wanted = layer(x)
    seed = torch.randn_like(wanted)
    gradients = torch.autograd.grad(wanted, [x, *layer.parameters()], seed)
    found = convolve_planes(x, layer.weight, layer.bias)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, [x, *layer.parameters()], seed), gradients, atol=1e-4, rtol=1e-4
    )
