"""Forms whose attention matrix is never formed: they equal what it would give."""

import pytest
import torch
from voxels import every_place, reaches, sharp

from foveate.attention.paired import PROJECTED

CHANNELS = 32
SIZES = {2: (4, 6), 3: (3, 4, 5)}
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


@torch.no_grad()
@in_2d_and_3d
def test_linear_equals_the_matrix_that_it_avoids(dims):
    block, x = sharp("linear", CHANNELS, dims), torch.randn(2, CHANNELS, *SIZES[dims])
    for image, found, received in zip(x, block(x), block.attention(x), strict=True):
        q, k, v = block.qkv(image.flatten(1).T).unflatten(-1, (3, 2, -1)).permute(1, 2, 0, 3)  # [2 heads, N, 16]
        weights = q.softmax(2) @ k.softmax(1).mT  # [2, N, N]
        torch.testing.assert_close(weights.sum(2), torch.ones(weights.shape[:2]))
        step = block.gamma * block.project((weights @ v).transpose(0, 1).flatten(1))
        torch.testing.assert_close(found, image + step.T.reshape(image.shape))
        torch.testing.assert_close(received.flatten(), weights.mean((0, 1)))


@torch.no_grad()
@in_2d_and_3d
def test_external_normalises_over_voxels_and_then_over_the_memory(dims):
    block, x = sharp("external", CHANNELS, dims), torch.randn(2, CHANNELS, *SIZES[dims])
    for image, found, received in zip(x, block(x), block.attention(x), strict=True):
        voxels = image.flatten(1).T
        weights = block.keys(block.query(voxels)).softmax(0)  # over voxels
        torch.testing.assert_close(received.flatten(), weights.mean(1))
        weights = weights / weights.sum(1, keepdim=True)
        step = block.gamma * block.project(weights @ block.values.weight.T)
        torch.testing.assert_close(found, image + step.T.reshape(image.shape))


@in_2d_and_3d
def test_external_memory_is_the_same_for_all_images(dims):
    """An image attends to what was learnt, and to nothing in its own values: they enter by the weights alone."""
    block, x = sharp("external", CHANNELS, dims), torch.randn(1, CHANNELS, *SIZES[dims])
    torch.nn.init.zeros_(block.keys.weight)
    torch.nn.init.zeros_(block.query.weight)
    expected = block.gamma * block.project(block.values.weight.mean(1))
    torch.testing.assert_close(block(x) - x, expected.reshape(1, -1, *[1] * dims).expand_as(x), atol=1e-5, rtol=1e-4)


def epa_by_hand(block, image):
    """EPA of one image ``[C, *S]``, head by head, and what each voxel receives."""
    voxels = image.flatten(1).T
    parts = block.embed(voxels).chunk(4, dim=-1)
    p = block.shrink(voxels).T.softmax(1)  # [32, N]
    joined, received = [], []
    for head in range(block.heads):
        q, k, among_voxels, among_channels = (part[:, 16 * head : 16 * (head + 1)] for part in parts)
        weights = (q @ (p @ k).T / 4).softmax(1)  # [N, 32]
        received.append((weights @ p).mean(0))
        q, k = (part / part.norm(dim=0) for part in (q, k))
        channels = (block.temperature[head] * q.T @ k).softmax(1)  # [16, 16]
        joined.append(weights @ p @ among_voxels + among_channels @ channels.T)
    step = block.gamma * block.project(torch.cat(joined, 1))
    return image + step.T.reshape(image.shape), torch.stack(received).mean(0)


@torch.no_grad()
@in_2d_and_3d
def test_epa_is_the_sum_of_attention_among_voxels_and_among_channels(dims):
    block, x = sharp("epa", CHANNELS, dims), torch.randn(2, CHANNELS, *SIZES[dims])
    torch.nn.init.normal_(block.temperature, 2)
    assert block.heads == 2
    for image, found, received in zip(x, block(x), block.attention(x), strict=True):
        expected, weights = epa_by_hand(block, image)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(received.flatten(), weights)


def test_epa_with_a_projection_that_keeps_voxels_apart_is_full_attention():
    """As many rows as voxels, each a single one: nothing is lost."""
    block, x = sharp("epa", CHANNELS, 2), torch.randn(1, CHANNELS, 4, PROJECTED // 4)
    tokens = x.flatten(2).mT
    q, k, v, _ = (part.unflatten(-1, (2, 16)).transpose(1, 2) for part in block.embed(tokens).chunk(4, dim=-1))
    block.projection = lambda tokens: torch.eye(PROJECTED)[None]
    block.embed.weight.data[-CHANNELS:] = 0  # values of the channels' attention
    full = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block(x), x + block.gamma * block.project(full).mT.reshape(x.shape))


@pytest.mark.parametrize("name", ["linear", "external", "epa"])
@in_2d_and_3d
def test_every_voxel_is_reached_and_order_does_not_matter(name, dims):
    block, x = sharp(name, CHANNELS, dims), torch.randn(1, CHANNELS, *SIZES[dims])
    if name != "external":  # which hears of other voxels through a sum alone
        assert reaches(block, x, (0,) * dims) == set(every_place(SIZES[dims]))
    order = torch.randperm(x[0, 0].numel())
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    torch.testing.assert_close(block(shuffled).flatten(2), block(x).flatten(2)[..., order])
