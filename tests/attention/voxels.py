"""What tests of several families share: blocks whose attention matters, and who reaches whom."""

import itertools

import torch

from foveate.attention import ATTENTION


def sharp(name, channels, dims):
    """A block whose weights differ much between keys, so that a wrong neighbourhood is seen."""
    torch.manual_seed(0)
    block = ATTENTION[name](channels, dims)
    for parameter, value in block.named_parameters():
        if "qkv" in parameter or "embed" in parameter:
            torch.nn.init.normal_(value, std=1.5 * channels**-0.5)
    return block.eval()


def reaches(function, x, place):
    """The voxels of x ``[1, C, *S]`` that the answer at a place depends on, as a set of tuples."""
    x = x.detach().requires_grad_()
    out = function(x)[(0, slice(None), *place)]
    (gradient,) = torch.autograd.grad((out * torch.arange(1, 1 + len(out))).sum(), x)
    return set(map(tuple, gradient[0].abs().sum(0).nonzero().tolist()))


def every_place(size):
    return list(itertools.product(*map(range, size)))
