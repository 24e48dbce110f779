"""A share of one feature and the rest of the other."""

import pytest
import torch

from foveate.attention import AttentionalFusion


@pytest.mark.parametrize("size", [(5, 4), (3, 4, 5)])
def test_equal_features_stay_and_others_are_mixed_by_the_equation(size):
    torch.manual_seed(0)
    block = AttentionalFusion(8, len(size))
    for value in block.parameters():
        torch.nn.init.normal_(value, std=3)
    x, y = (torch.randn(2, 8, *size) for _ in range(2))
    assert torch.equal(block(x, x), x)
    joined = x + y
    mean = joined.flatten(2).mean(2).reshape(2, 8, *[1] * len(size))
    m = (block.of_voxels(joined) + block.of_image(mean)).sigmoid()
    torch.testing.assert_close(block(x, y), m * x + (1 - m) * y)
