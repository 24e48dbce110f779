"""From a bag of tokens to one vector: what the order, the padding and doubles must not change."""

import pytest
import torch

from foveate.attention import POOLING
from foveate.attention.pooling import SMALLEST

CHANNELS = 6
every_pooling = pytest.mark.parametrize("name", POOLING)


def pooling_and_bag(name, count=7):
    torch.manual_seed(0)
    return POOLING[name](CHANNELS), torch.rand(2, count, CHANNELS) + 0.1


@every_pooling
def test_order_and_doubles_do_not_matter(name):
    pool, x = pooling_and_bag(name)
    assert pool(x).shape == (2, CHANNELS)
    torch.testing.assert_close(pool(x[:, torch.randperm(7)]), pool(x))
    torch.testing.assert_close(pool(torch.cat([x, x], 1)), pool(x))


@every_pooling
@pytest.mark.parametrize("filling", [0.0, 1e6, -1e6, torch.nan, torch.inf])
def test_padding_is_inert(name, filling):
    """In the answer and in every gradient."""
    pool, x = pooling_and_bag(name)
    padded = torch.cat([x, torch.full((2, 3, CHANNELS), filling)], 1).requires_grad_()
    mask = torch.arange(10).expand(2, -1) < 7
    x.requires_grad_()
    without, found = pool(x), pool(padded, mask)
    torch.testing.assert_close(found, without)
    upstream = torch.randn_like(found)
    (expected,) = torch.autograd.grad(without, x, upstream, retain_graph=True)
    (gradient,) = torch.autograd.grad(found, padded, upstream, retain_graph=True)
    torch.testing.assert_close(gradient[:, :7], expected)
    assert (gradient[:, 7:] == 0).all()
    for parameter in pool.parameters():
        ours, theirs = (torch.autograd.grad(z, parameter, upstream, retain_graph=True) for z in (found, without))
        torch.testing.assert_close(ours, theirs)


@every_pooling
def test_a_bag_of_which_nothing_counts_gives_zero_and_finite_gradients(name):
    pool, x = pooling_and_bag(name)
    x.requires_grad_()
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1] = False
    z = pool(x, mask)
    assert (z[1] == 0).all()
    torch.testing.assert_close(z[0], pool(x)[0])
    gradients = torch.autograd.grad(z.square().sum(), [x, *pool.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_pooling
@pytest.mark.parametrize("size", [(3, 4), (2, 3, 4)])
def test_an_image_is_the_bag_of_its_voxels(name, size):
    pool, x = pooling_and_bag(name, torch.Size(size).numel())
    image = x.mT.reshape(2, CHANNELS, *size)
    mask = torch.rand(2, *size) < 0.6
    torch.testing.assert_close(pool(image), pool(x))
    torch.testing.assert_close(pool(image, mask), pool(x, mask.flatten(1)))


@every_pooling
def test_images_do_not_see_each_other(name):
    pool, x = pooling_and_bag(name)
    torch.testing.assert_close(pool(x), torch.cat([pool(x[:1]), pool(x[1:])]))


def test_generalised_mean_from_mean_to_maximum():
    pool, x = pooling_and_bag("gem")
    torch.testing.assert_close(pool(x), x.pow(3).mean(1).pow(1 / 3))
    for p, expected in [(1.0, x.mean(1)), (2.0, x.square().mean(1).sqrt()), (5000.0, x.amax(1))]:
        torch.nn.init.constant_(pool.p, p)
        torch.testing.assert_close(pool(x), expected, rtol=1e-3, atol=1e-5)


def test_the_power_of_the_generalised_mean_is_learnt():
    pool, x = pooling_and_bag("gem")
    p = pool.p.detach().double().requires_grad_()
    by_hand = x.double().pow(p).mean(1).pow(1 / p).sum()
    (expected,) = torch.autograd.grad(by_hand, p)
    pool(x).sum().backward()
    torch.testing.assert_close(pool.p.grad.double(), expected, rtol=1e-4, atol=1e-6)
    assert expected > 0


def test_negative_features_count_as_the_smallest():
    pool, x = pooling_and_bag("gem")
    torch.testing.assert_close(pool(x - 10), torch.full((2, CHANNELS), SMALLEST))


def test_gated_attention_is_the_equation():
    pool, x = pooling_and_bag("attention")
    for bag, z, weights in zip(x, pool(x), pool.attention(x), strict=True):
        scores = torch.stack([(pool.w.weight[0] * (pool.v(h).tanh() * pool.u(h).sigmoid())).sum() for h in bag])
        a = scores.exp() / scores.exp().sum()
        torch.testing.assert_close(weights, a)
        torch.testing.assert_close(z, sum(share * h for share, h in zip(a, bag, strict=True)))


def test_the_map_lies_in_image_space_and_sums_to_one():
    pool, image = POOLING["attention"](CHANNELS), torch.randn(2, CHANNELS, 3, 4)
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[:, 0] = False
    weights = pool.attention(image, mask)
    assert weights.shape == (2, 1, 3, 4)
    torch.testing.assert_close(weights.sum((1, 2, 3)), torch.ones(2))
    assert (weights[:, :, 0] == 0).all()
    torch.testing.assert_close((weights * image).sum((2, 3)), pool(image, mask))
