"""Every voxel is given one and the same vector, from weights that sum to 1."""

import pytest
import torch

from foveate.attention import GlobalContext


@pytest.mark.parametrize("size", [(5, 4), (3, 4, 5)])
def test_adds_the_transformed_weighted_mean_to_every_voxel(size):
    block, x = GlobalContext(8, len(size)), torch.randn(2, 8, *size)
    alpha = block.attention(x).flatten(1)
    torch.testing.assert_close(alpha.sum(1), torch.ones(2))
    scores = torch.einsum("bcn,c->bn", x.flatten(2), block.score.weight.flatten())
    torch.testing.assert_close(alpha, scores.exp() / scores.exp().sum(1, keepdim=True))
    context = block.transform((x.flatten(2) * alpha[:, None]).sum(2))
    torch.testing.assert_close((block(x) - x).flatten(2), context[..., None].expand(-1, -1, alpha.shape[1]))
