"""Channels are weighed first, and voxels by what is left."""

import pytest
import torch
import torch.nn.functional as F

from foveate.attention import ConvBlockAttention


@pytest.mark.parametrize(("size", "reach"), [((17, 19), 3), ((9, 10, 11), 2)])
def test_equals_the_equations(size, reach):
    block, x = ConvBlockAttention(8, len(size)), torch.randn(2, 8, *size)
    axes = list(range(2, x.ndim))
    weights = (block.mlp(x.mean(axes)) + block.mlp(x.amax(axes))).sigmoid()
    weighed = x * weights.reshape(2, 8, *[1] * len(size))
    described = F.pad(torch.stack([weighed.mean(1), weighed.amax(1)], dim=1), [reach] * 2 * len(size))
    middle = tuple(n // 2 for n in size)
    patch = described[(slice(None), slice(None), *[slice(m, m + 2 * reach + 1) for m in middle])]
    score = (patch * block.of_voxels.weight).flatten(1).sum(1) + block.of_voxels.bias
    expected = weighed[(..., *middle)] * score.sigmoid()[:, None]
    torch.testing.assert_close(block(x)[(..., *middle)], expected)
