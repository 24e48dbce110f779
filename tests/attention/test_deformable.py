"""Deformable attention: places that are looked at one by one, and a fixed grid where nothing has been learnt."""

import pytest
import torch
import torch.nn.functional as F
from voxels import every_place, sharp

CHANNELS = 32
SIZES = {2: (5, 4), 3: (3, 4, 2)}
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def block_and_image(dims, offsets=0.0):
    block = sharp("deformable", CHANNELS, dims)
    torch.nn.init.normal_(block.weights.weight, std=0.3)
    torch.nn.init.normal_(block.offsets.weight, std=offsets)
    return block, torch.randn(2, CHANNELS, *SIZES[dims])


def shares(place, size):
    """The voxels that a place in space lies between, and how much of each it takes."""
    for voxel in every_place(size):
        share = 1.0
        for a, b in zip(place.tolist(), voxel, strict=True):
            share *= max(1 - abs(a - b), 0)
        if share:
            yield voxel, share


@torch.no_grad()
@in_2d_and_3d
@pytest.mark.parametrize("offsets", [0.0, 0.5])
def test_a_voxel_joins_the_values_at_its_places(dims, offsets):
    block, x = block_and_image(dims, offsets)
    assert block.heads == 2
    image, size = x[0].movedim(0, -1), SIZES[dims]  # [*S, C]
    value, width = block.value(image), CHANNELS // 2
    moved = block.offsets(image).unflatten(-1, (2, -1, dims))
    chosen = block.weights(image).unflatten(-1, (2, -1)).softmax(-1)
    joined, received = torch.zeros(*size, CHANNELS), torch.zeros(size)
    for p in every_place(size):
        for head, step in enumerate([1, 2]):
            grid = step * torch.cat([torch.zeros(1, dims), torch.eye(dims), -torch.eye(dims)])
            for place, weight in zip(torch.tensor(p) + grid + moved[p][head], chosen[p][head], strict=True):
                for voxel, share in shares(place, size):
                    part = slice(head * width, (head + 1) * width)
                    joined[p][part] += weight * share * value[voxel][part]
                    received[voxel] += weight * share / (2 * len(every_place(size)))
    expected = image + block.gamma * block.project(joined)
    torch.testing.assert_close(block(x)[0], expected.movedim(-1, 0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block.attention(x)[0, 0], received, rtol=1e-4, atol=1e-6)


@torch.no_grad()
@in_2d_and_3d
def test_zero_offsets_are_the_fixed_grid(dims):
    """A weighted sum of shifted images, as a convolution with weights of each voxel's own."""
    block, x = block_and_image(dims)
    size, tokens = SIZES[dims], x.movedim(1, -1)
    weights = block.weights(tokens).unflatten(-1, (2, -1)).softmax(-1)
    padded = F.pad(block.value(tokens).movedim(-1, 1).unflatten(1, (2, -1)), [2, 2] * dims)
    heads = []
    for head, step in enumerate([1, 2]):
        total = torch.zeros(2, CHANNELS // 2, *size)
        for point, shift in enumerate([(0,) * dims, *map(tuple, (step * torch.eye(dims)).int().tolist())]):
            for sign in (1, -1) if any(shift) else (1,):
                inside = [slice(2 + sign * s, 2 + sign * s + n) for s, n in zip(shift, size, strict=True)]
                total += (
                    padded[(slice(None), head, slice(None), *inside)]
                    * weights[..., head, point + (dims if sign < 0 else 0)][:, None]
                )
        heads.append(total)
    step = block.project(torch.cat(heads, 1).movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(block(x), x + block.gamma * step, rtol=1e-4, atol=1e-5)


def test_offsets_follow_the_gradient_to_what_is_looked_for():
    """A hill in the middle, seen from its foot: ascent in the offsets alone brings every place closer to the top."""
    block = sharp("deformable", CHANNELS, 2)
    for layer in (block.value, block.project):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    distance = (torch.cartesian_prod(torch.arange(9.0), torch.arange(9.0)) - 4).norm(dim=1).reshape(9, 9)
    x = (-(distance**2) / 8).exp().expand(1, CHANNELS, 9, 9)

    def from_the_top():
        places, _ = block.look(x.movedim(1, -1))
        return (places[0, :, :, 4, 7] - 4).norm(dim=-1).mean().item()

    before = from_the_top()
    for _ in range(15):
        (gradient,) = torch.autograd.grad(block(x)[0, :, 4, 7].sum(), block.offsets.bias)
        block.offsets.bias.data += 0.2 * gradient.sign()
    assert from_the_top() < before - 1


def test_places_outside_the_image_give_nothing():
    block, x = block_and_image(2)
    torch.nn.init.constant_(block.offsets.bias, 100.0)
    expected = x + block.gamma * block.project.bias[:, None, None]
    torch.testing.assert_close(block(x), expected)
    assert (block.attention(x) == 0).all()
