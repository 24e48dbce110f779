"""Scaled dot-product attention against torch and the equation, and what a mask promises."""

import pytest
import torch
import torch.nn.functional as F

from foveate.attention.dot_product import (
    PART,
    head_count,
    join_heads,
    received,
    scaled_dot_product,
    split_heads,
    to_image,
    to_tokens,
)

IMAGES, HEADS, QUERIES, KEYS = 2, 3, 5, 7


def tokens(d_k=4, d_v=6):
    torch.manual_seed(0)
    sizes = [(QUERIES, d_k), (KEYS, d_k), (KEYS, d_v)]
    return [torch.randn(IMAGES, HEADS, *size, requires_grad=True) for size in sizes]


def some_mask():
    """Every query sees some keys, and no two the same."""
    mask = torch.rand(IMAGES, HEADS, QUERIES, KEYS, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., 0] |= ~mask.any(-1)
    return mask


@pytest.mark.parametrize(("d_k", "d_v"), [(4, 6), (6, 4), (5, 5)])
@pytest.mark.parametrize("kind", [None, bool, float])
def test_parity_with_torch_and_with_the_equation(d_k, d_v, kind):
    q, k, v = tokens(d_k, d_v)
    mask, added = None, torch.zeros(())
    if kind is bool:
        mask = some_mask()
        added = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    if kind is float:
        mask = added = torch.randn(QUERIES, KEYS).masked_fill(~some_mask()[0, 0], -torch.inf)
    found = scaled_dot_product(q, k, v, mask)
    by_hand = (torch.einsum("bhic,bhjc->bhij", q, k) / d_k**0.5 + added).softmax(-1) @ v
    torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    upstream = torch.randn_like(found)
    for ours, theirs in zip(*[torch.autograd.grad(out, (q, k, v), upstream) for out in (found, by_hand)], strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("kind", [bool, float])
def test_a_masked_key_has_no_influence(poison, kind):
    """Neither on the answer nor on any gradient, and the key and value get none."""
    q, k, v = tokens()
    mask = torch.ones(IMAGES, 1, 1, KEYS, dtype=torch.bool)
    mask[:, ..., 2] = False
    given = mask if kind is bool else torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    others = [i for i in range(KEYS) if i != 2]
    without = scaled_dot_product(q, k[:, :, others], v[:, :, others])
    upstream = torch.randn_like(without)
    expected = torch.autograd.grad(without, (q, k, v), upstream)
    k, v = (x.detach().index_fill(2, torch.tensor([2]), poison).requires_grad_() for x in (k, v))
    found = scaled_dot_product(q, k, v, given)
    torch.testing.assert_close(found, without)
    for ours, theirs in zip(torch.autograd.grad(found, (q, k, v), upstream), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_nan_is_hidden_from_those_alone_who_do_not_see_it():
    q, k, v = (x.detach() for x in tokens())
    mask = torch.ones(QUERIES, KEYS, dtype=torch.bool)
    mask[1, 2] = False
    v[:, :, 2, 0] = torch.nan
    assert (scaled_dot_product(q, k, v, mask).isnan().any(-1) == torch.tensor([True, False, True, True, True])).all()


@pytest.mark.parametrize("kind", [bool, float])
def test_a_query_that_sees_nothing_gets_zero_and_finite_gradients(kind):
    q, k, v = tokens()
    mask = some_mask()
    mask[:, :, 1] = False
    given = mask if kind is bool else torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    found = scaled_dot_product(q, k, v, given)
    assert (found[:, :, 1] == 0).all()
    assert (found[:, :, [0, 2, 3, 4]] != 0).all()
    gradients = torch.autograd.grad(found.square().sum(), (q, k, v))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[0][:, :, 1] == 0).all()


def test_images_do_not_see_each_other():
    q, k, v = tokens()
    found = scaled_dot_product(q, k, v)
    alone = torch.cat([scaled_dot_product(q[i : i + 1], k[i : i + 1], v[i : i + 1]) for i in range(IMAGES)])
    torch.testing.assert_close(found, alone)
    (gradient,) = torch.autograd.grad(found[0].sum(), k)
    assert (gradient[1] == 0).all()


@pytest.mark.parametrize("parts", [1, 3, QUERIES])
def test_what_keys_receive_is_the_sum_of_the_weights(parts, monkeypatch):
    """Whole, in parts and query by query; a query that sees nothing gives nothing."""
    rows = -(-QUERIES // parts)
    monkeypatch.setattr("foveate.attention.dot_product.PART", rows * IMAGES * HEADS * KEYS)
    assert PART > 1000  # otherwise ordinary maps would be slow
    q, k, _ = (x.detach() for x in tokens())
    mask = some_mask()
    mask[:, :, 1] = False
    weights = (q @ k.mT / 2).masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num()
    torch.testing.assert_close(received(q, k, mask), weights.sum(2))
    torch.testing.assert_close(received(q, k, torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)), weights.sum(2))
    torch.testing.assert_close(received(q, k), (q @ k.mT / 2).softmax(-1).sum(2))


@pytest.mark.parametrize("size", [(3, 4), (3, 4, 2)])
def test_tokens_are_voxels_of_one_image_in_order(size):
    x = torch.randn(2, 6, *size)
    found = to_tokens(x)
    place = tuple(n - 1 for n in size)
    assert torch.equal(found[:, -1], x[(slice(None), slice(None), *place)])
    assert torch.equal(found[:, 1], x.flatten(2)[:, :, 1])
    assert torch.equal(to_image(found, size), x)
    assert torch.equal(split_heads(found, 3)[:, 1], found[..., 2:4])
    assert torch.equal(join_heads(split_heads(found, 3)), found)


def test_heads_divide_the_channels():
    assert [head_count(n) for n in (1, 8, 31, 32, 48, 50, 320)] == [1, 1, 1, 2, 3, 2, 20]
