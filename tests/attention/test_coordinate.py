"""Weights are a product over axes of factors that see the profile along their axis alone."""

import pytest
import torch

from foveate.attention import CoordinateAttention


@pytest.mark.parametrize("size", [(5, 4), (3, 4, 5)])
def test_equals_the_equations_position_by_position(size):
    block, x = CoordinateAttention(8, len(size)), torch.randn(2, 8, *size)
    expected = x.clone()
    for axis, excite in enumerate(block.excite, start=2):
        for i in range(x.shape[axis]):
            mean = x.select(axis, i).flatten(2).mean(2)
            gate = excite(torch.nn.functional.hardswish(block.squeeze(mean))).sigmoid()
            expected.select(axis, i).mul_(gate.reshape(2, 8, *[1] * (len(size) - 1)))
    torch.testing.assert_close(block(x), expected)
