"""Window attention against attention voxel by voxel: who may see whom, and that nothing else counts."""

import itertools
import math

import pytest
import torch

from foveate.attention import ATTENTION
from foveate.attention.window import WINDOW, WindowAttention, cut, even_share, paste, windows_of

CHANNELS = 32  # two heads
SIZES = {
    2: [(8, 8), (5, 3), (16, 8), (24, 4), (13, 9), (17, 4)],
    3: [(4, 4, 4), (3, 2, 4), (8, 4, 8), (5, 9, 2), (7, 6, 2)],
}
every_size = pytest.mark.parametrize("size", [size for sizes in SIZES.values() for size in sizes])


def attention(dims, shifted):
    torch.manual_seed(0)
    layer = WindowAttention(CHANNELS, dims, shifted)
    torch.nn.init.normal_(layer.bias)  # large enough to matter
    return layer


def by_hand(layer, x, sees):
    """Attention of all voxels to all others, except where ``sees(p, q)`` is false; x ``[*S, C]``."""
    size, channels = x.shape[:-1], x.shape[-1]
    places = list(itertools.product(*map(range, size)))
    q, k, v = layer.qkv(x.reshape(-1, channels)).reshape(len(places), 3, layer.heads, -1).unbind(1)
    scores = torch.einsum("ihc,jhc->hij", q, k) / q.shape[-1] ** 0.5
    side = 2 * layer.window - 1
    for (i, p), (j, r) in itertools.product(enumerate(places), repeat=2):
        if sees(p, r):
            index = 0
            for a, b in zip(p, r, strict=True):
                index = index * side + a - b + layer.window - 1
            scores[:, i, j] += layer.bias[:, index]
        else:
            scores[:, i, j] = -torch.inf
    return layer.project(torch.einsum("hij,jhc->ihc", scores.softmax(-1), v).reshape(-1, channels)).reshape(x.shape)


def in_one_window(size, most, shifted):
    """Whether two voxels lie in the same window: windows start at 0, or after half a window, the odd voxel left out.

    As few of at most ``most`` voxels as cover an axis, and as short as that many can be.
    """
    counts = [math.ceil(n / most) for n in size]
    windows = [math.ceil(n / count) for n, count in zip(size, counts, strict=True)]

    def number(place):
        return tuple(
            (a + (window - window // 2 if shifted and count > 1 else 0)) // window
            for a, count, window in zip(place, counts, windows, strict=True)
        )

    return lambda p, q: number(p) == number(q)


@torch.no_grad()
@every_size
@pytest.mark.parametrize("shifted", [False, True])
def test_a_voxel_attends_to_its_window_and_to_nothing_else(size, shifted):
    """Neither to what is filled up nor, when windows are shifted, to the other side of the image."""
    layer = attention(len(size), shifted)
    x = torch.randn(2, *size, CHANNELS)
    expected = [by_hand(layer, image, in_one_window(size, layer.window, shifted)) for image in x]
    torch.testing.assert_close(layer(x), torch.stack(expected), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("shifted", [False, True])
def test_a_window_as_large_as_the_image_is_full_attention(dims, shifted):
    for size in [(WINDOW[dims],) * dims, (WINDOW[dims] - 1,) * dims]:
        layer, x = attention(dims, shifted), torch.randn(1, *size, CHANNELS)
        torch.testing.assert_close(layer(x)[0], by_hand(layer, x[0], lambda p, q: True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_shifted_windows_join_neighbours_and_do_not_leak_round_the_border(dims):
    window = WINDOW[dims]
    size = (3 * window, *[window] * (dims - 1))
    layer = attention(dims, shifted=True)
    x = torch.randn(1, *size, CHANNELS, requires_grad=True)
    for row, seen in [(0, range(window // 2)), (window, range(window // 2, window // 2 + window))]:
        (gradient,) = torch.autograd.grad(layer(x)[0, row].sum(), x)
        reached = gradient[0].abs().flatten(1).sum(1).nonzero().flatten().tolist()
        assert reached == list(seen)


@pytest.mark.parametrize("size", [(16, 8), (3, 8), (8, 4, 12)])
def test_paste_undoes_cut_and_windows_are_boxes(size):
    window = [min(4, n) for n in size]
    x = torch.randn(2, *size, 3)
    tokens = cut(x, window)
    corner = x[(slice(None), *[slice(n) for n in window])]
    assert torch.equal(tokens[:, 0], corner.flatten(1, -2))
    assert torch.equal(paste(tokens, window, size), x)


@torch.no_grad()
@every_size
@pytest.mark.parametrize("shifted", [False, True])
def test_the_map_is_the_mean_over_queries_of_attention_by_hand(size, shifted):
    """What a voxel receives is what one-hot values, one per voxel, are joined to."""
    layer, x = attention(len(size), shifted), torch.randn(2, *size, CHANNELS)
    sees, places = in_one_window(size, layer.window, shifted), list(itertools.product(*map(range, size)))
    apart = torch.tensor([[not sees(p, r) for r in places] for p in places])
    offsets = torch.tensor(places)[:, None] - torch.tensor(places) + layer.window - 1
    index = torch.zeros_like(offsets[..., 0])
    for offset in offsets.unbind(-1):
        index = index * (2 * layer.window - 1) + offset
    bias = layer.bias[:, index.where(~apart, 0)].masked_fill(apart, -torch.inf)
    q, k, _ = layer.qkv(x.flatten(1, -2)).unflatten(-1, (3, layer.heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / q.shape[-1] ** 0.5 + bias).softmax(-1)
    torch.testing.assert_close(layer.received(x).flatten(1), weights.mean((1, 2)))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_block_joins_windows_that_lie_side_by_side(dims):
    """A voxel reaches its plain window, and from each of its voxels the shifted one."""
    window = WINDOW[dims]
    torch.manual_seed(0)
    block, x = ATTENTION["window"](CHANNELS, dims), torch.randn(1, CHANNELS, 3 * window, *[window] * (dims - 1))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(block(x)[0, :, 0].sum(), x)  # its shifted window ends within the first plain one
    assert gradient.abs().transpose(1, 2).flatten(2).sum(2)[0].nonzero().flatten().tolist() == list(range(window))
    (gradient,) = torch.autograd.grad(block(x)[0, :, window].sum(), x)
    assert gradient.abs().transpose(1, 2).flatten(2).sum(2)[0].nonzero().flatten().tolist() == list(range(2 * window))


@every_size
@pytest.mark.parametrize("shifted", [False, True])
def test_the_gathered_windows_are_those_of_an_image_filled_up_rolled_and_cut(size, shifted):
    windows = windows_of(size, WINDOW[len(size)], shifted)
    lengths = [even_share(n, WINDOW[len(size)]) for n in size]
    padded = [-(-n // w) * w for n, w in zip(size, lengths, strict=True)]
    x, filled = torch.randn(2, *size, 3), torch.zeros(2, *padded, 3)
    filled[(slice(None), *[slice(n) for n in size])] = x
    back = [-(w // 2) if shifted and p > w else 0 for w, p in zip(lengths, padded, strict=True)]
    real = torch.tensor(windows.sides > 0)[None, :, :, None]
    found = windows.cut(x)
    expected = cut(filled.roll(back, list(range(1, len(size) + 1))), lengths)
    torch.testing.assert_close(found * real, expected, rtol=0, atol=0)
    assert torch.equal(windows.back(found), x)


def test_what_is_kept_of_a_size_serves_after_an_export():
    layer, x = attention(3, shifted=True).eval(), torch.randn(1, 5, 9, 2, CHANNELS)
    expected = layer(x)
    windows_of.cache_clear()
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(exported(x), expected)
