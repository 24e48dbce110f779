"""The map of the attention CNN adds up to the logits, lies where the evidence is, and knows no other image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foveate.cohort.plan import ChannelPlan
from foveate.config import AttentionSlots, NetworkConfig
from foveate.errors import InputError
from foveate.networks.attention_cnn import AttentionCNN
from toys import tiny_plan

CLASSES = 3
PLANS = {
    "2D": tiny_plan(2, patch=(32, 40)),
    "3D": tiny_plan(3, patch=(16, 16, 24)),
    "thick slices": tiny_plan(3, patch=(16, 32, 5), strides=((1, 1, 1), (2, 2, 1), (1, 2, 1))),
    "stride 3, two inputs": tiny_plan(
        2,
        patch=(24, 48),
        strides=((1, 1), (3, 3), (1, 2)),
        channels=tuple(ChannelPlan(name=n, normalisation="zscore") for n in "ab"),
    ),
    "one stage": tiny_plan(2, patch=(5, 7), widths=(4,), strides=((1, 1),)),
}
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def network_and_images(plan, images=2, **slots):
    torch.manual_seed(0)
    network = AttentionCNN(plan, CLASSES, NetworkConfig(name="attention_cnn", attention=AttentionSlots(**slots)))
    torch.nn.init.normal_(network.pool.w.weight, std=3)  # attention that is far from even
    # As in prediction: in training, normalisation shares the batch's mean and deviation, and nothing else.
    return network.eval(), torch.randn(images, len(plan.channels), *plan.patch)


@every_plan
@pytest.mark.parametrize("bottleneck", ["none", "position"])
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_the_map_adds_up_to_the_logit(plan, bottleneck, kind, tolerance):
    network, x = network_and_images(plan, bottleneck=bottleneck)
    network, x = network.to(kind), x.to(kind)
    mask = torch.rand(2, *plan.patch) < 0.5
    for m in (None, mask):
        logits, maps = network(x, mask=m), network.contributions(x, m)
        assert logits.shape == (2, CLASSES)
        assert maps.shape == (2, CLASSES, *(n // s for n, s in zip(plan.patch, network.stride, strict=True)))
        assert maps.flatten(2).std(2).min() > 0
        at_voxels = network.evidence(x, m)
        assert at_voxels.shape == (2, CLASSES, *plan.patch)
        for shown in (maps, at_voxels):
            added = shown.flatten(2).sum(2) + network.head.bias
            torch.testing.assert_close(added, logits, rtol=0, atol=tolerance)


@every_plan
def test_what_a_position_adds_is_shared_out_as_if_every_convolution_were_a_mean(plan):
    """By the gradient of the encoder itself, its weights all alike, without shortcuts and what is not linear."""
    network, x = network_and_images(plan, images=1)
    ones = torch.ones(1, 1, *x.shape[2:], dtype=torch.float64, requires_grad=True)
    seen = ones
    for stage in network.encoder:
        for layer in stage[0].body:
            if hasattr(layer, "kernel_size"):
                run = {2: F.conv2d, 3: F.conv3d}[plan.dims]
                kernel = torch.ones(1, 1, *layer.kernel_size, dtype=torch.float64)
                counts = run(torch.ones_like(seen), kernel, None, layer.stride, layer.padding)
                seen = run(seen, kernel, None, layer.stride, layer.padding) / counts.detach()
    values = torch.randn(1, 2, *seen.shape[2:], dtype=torch.float64)
    expected = torch.cat(
        [torch.autograd.grad(seen, ones, values[:, k : k + 1], retain_graph=True)[0] for k in range(2)], 1
    )
    network.contributions = lambda *_: values
    torch.testing.assert_close(network.evidence(x), expected)


def test_logits_and_map_are_the_equation():
    network, x = network_and_images(PLANS["2D"], images=1)
    pool, head = network.pool, network.head
    tokens = network.encode(x)[-1][0].flatten(1).mT
    scores = torch.stack([(pool.w.weight[0] * (pool.v(t).tanh() * pool.u(t).sigmoid())).sum() for t in tokens])
    a = scores.exp() / scores.exp().sum()
    torch.testing.assert_close(network(x)[0], head(sum(share * t for share, t in zip(a, tokens, strict=True))))
    by_hand = torch.stack([share * (head.weight @ t) for share, t in zip(a, tokens, strict=True)], 1)
    torch.testing.assert_close(network.contributions(x)[0].flatten(1), by_hand)


@pytest.mark.parametrize("bottleneck", ["none", "position"])
def test_images_do_not_see_each_other(bottleneck):
    network, x = network_and_images(PLANS["2D"], images=3, bottleneck=bottleneck)
    alone = torch.cat([network(image[None]) for image in x])
    torch.testing.assert_close(network(x), alone, rtol=1e-5, atol=1e-6)
    changed = x.clone()
    changed[1:] += 5 * torch.randn_like(changed[1:])
    torch.testing.assert_close(network(changed)[0], alone[0], rtol=1e-5, atol=1e-6)


def test_a_position_sees_five_voxels_to_every_side():
    network, x = network_and_images(PLANS["2D"], images=1)
    assert network.stride == (4, 4)
    x.requires_grad_()
    network.encode(x)[-1][0, :, 4, 5].sum().backward()  # centred on voxel 16, 20
    seen = x.grad[0, 0] != 0
    assert seen.nonzero().min(0).values.tolist() == [16 - 5, 20 - 5]
    assert seen.nonzero().max(0).values.tolist() == [16 + 5, 20 + 5]


def test_what_is_masked_is_not_attended_to():
    """However loud it is."""
    network, x = network_and_images(PLANS["2D"])
    mask = torch.ones(2, 32, 40, dtype=torch.bool)
    mask[:, :, 24:] = False
    feature = network.encode(x)[-1]
    kept = 24 // network.stride[1]
    for filling in (0.0, 1e6, -1e6):
        loud = feature.clone()
        loud[..., kept:] = filling
        network.encode = lambda _, loud=loud: [loud]
        torch.testing.assert_close(network(x, mask=mask), network.head(network.pool(feature[..., :kept])))
        maps = network.contributions(x, mask)
        assert (maps[..., kept:] == 0).all()
        assert maps[..., :kept].abs().sum() > 0


@every_plan
def test_a_position_lies_on_the_voxel_that_its_field_of_view_is_centred_on(plan):
    network, _ = network_and_images(plan, images=1)
    size = tuple(24 * s for s in network.stride)
    x = torch.randn(1, len(plan.channels), *size, requires_grad=True)
    feature = network.encode(x)[-1].abs().sum(1)[0]
    place = (11,) * len(size)
    (gradient,) = torch.autograd.grad(feature[place], x)
    seen = (gradient[0].abs().sum(0) > 0).nonzero()
    centre = (seen.amin(0) + seen.amax(0)) / 2
    values = torch.zeros(1, 1, *feature.shape)
    values[0, 0][place] = 1
    network.contributions = lambda *_: values
    shown = network.evidence(x)[0, 0]
    middle = [(shown.detach().numpy() * places).sum() for places in np.indices(shown.shape)]
    assert middle == pytest.approx(centre.tolist(), abs=1e-4)
    assert torch.equal(shown > 0, gradient[0].abs().sum(0) > 0)


@every_plan
def test_every_parameter_learns(plan):
    network, x = network_and_images(plan, bottleneck="position")
    network(x).square().sum().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A softmax does not change when the same number is added to all of its scores: a key's bias cannot matter.
    assert not silent


def test_perturbed_features_reach_the_logits():
    network, x = network_and_images(PLANS["2D"])
    torch.testing.assert_close(network(x, lambda f: 0 * f), network.head.bias.expand(2, -1))


@pytest.mark.parametrize(
    ("patch", "strides", "stride"),
    [
        ((256, 256), ((1, 1), *[(2, 2)] * 5), (4, 4)),
        ((40, 56, 40), ((1, 1, 1), *[(2, 2, 2)] * 3), (4, 4, 4)),
        ((96, 96, 8), ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2)), (4, 4, 1)),
        ((12, 12), ((1, 1), (2, 2)), (1, 1)),
    ],
)
def test_the_map_stays_fine_enough(patch, strides, stride):
    plan = tiny_plan(len(patch), patch=patch, strides=strides, widths=(4,) * len(strides))
    assert AttentionCNN(plan, 1, NetworkConfig()).stride == stride
    assert len(AttentionCNN.fitted(plan).widths) == len(AttentionCNN.fitted(plan).strides)


def test_an_unknown_block_is_refused():
    with pytest.raises(InputError, match=r"network\.attention\.bottleneck"):
        AttentionCNN(PLANS["2D"], 2, NetworkConfig(attention=AttentionSlots(bottleneck="positoin")))


@pytest.mark.parametrize(
    "part", [{"attention": {"skip": "gate"}}, {"head": "dense_upsampling"}, {"crf": True}, {"boxes": True}]
)
def test_what_only_a_decoder_has_is_refused(part):
    with pytest.raises(InputError, match="decoder"):
        AttentionCNN(PLANS["2D"], 2, NetworkConfig.model_validate(part))


@pytest.mark.parametrize("pool", ["mean", "gem"])
def test_a_pooling_without_a_map_is_refused(pool):
    with pytest.raises(InputError, match=r"network\.attention\.pool"):
        AttentionCNN(PLANS["2D"], 2, NetworkConfig(attention=AttentionSlots(pool=pool)))
