"""Three decoders of one encoder: they differ in up-sampling, and each learns what the others are nearly sure of."""

import copy

import pytest
import torch
from test_methods import PLAN, RAMPED, a_batch, build, trained

from foveate.layers import resize_linear, resize_nearest
from foveate.methods.mutual_consistency import TEMPERATURE
from toys import tiny_plan

REGIONS = PLAN.model_copy(update={"classes": {"whole": (1, 2), "core": (2,)}})
every_kind = pytest.mark.parametrize("plan", [PLAN, REGIONS], ids=["classes", "regions"])


@every_kind
def test_the_disagreement_by_hand(plan):
    method = build("mutual_consistency", plan)
    torch.manual_seed(1)
    answers = [torch.randn(2, method.task.channels, 3, 2, requires_grad=True) for _ in range(3)]
    sharp = []
    for logits in answers:
        p = (logits.sigmoid() if plan.regions else logits.softmax(1)).detach()
        power = p ** (1 / TEMPERATURE)
        rest = (1 - p) ** (1 / TEMPERATURE) if plan.regions else power.sum(1, keepdim=True) - power
        sharp.append(power / (power + rest))
    values = [logits.sigmoid() if plan.regions else logits.softmax(1) for logits in answers]
    expected = sum((values[i] - sharp[j]).square().mean() for i in range(3) for j in range(3) if i != j)
    found = method.disagreement(answers)
    torch.testing.assert_close(found, expected)
    # The same gradient too: what is sharpened is a target and receives none.
    for a, b in zip(torch.autograd.grad(found, answers), torch.autograd.grad(expected, answers), strict=True):
        torch.testing.assert_close(a, b)


def test_decoders_that_are_sure_of_the_same_cost_nothing():
    method = build("mutual_consistency")
    sure = 40 * torch.eye(3)[torch.randint(0, 3, (2, 4, 4))].movedim(-1, 1)
    assert float(method.disagreement([sure] * 3)) < 1e-6
    assert float(method.disagreement([sure, sure, sure.roll(1, dims=1)])) > 1


@every_kind
def test_every_decoder_learns_the_labels_and_the_ramp_weighs_the_others(plan):
    method = build("mutual_consistency", plan, unlabelled_weight=0.6)
    batch = a_batch(method, labelled=3)
    losses = next(method.turns(batch, RAMPED))[1]
    images = torch.cat([batch.images, batch.strong[0]])
    features = method.network.encode(images)
    target = method.task.encode(batch.labels)
    answers = []
    for prefix, weight, decoder in (
        ("", 1.0, method.network.decoder),
        ("linear ", 0.6, method.others["linear"]),
        ("nearest ", 0.6, method.others["nearest"]),
    ):
        outputs = decoder(features)
        answers.append(outputs[0])
        for key, value in method.task.loss([logits[:3] for logits in outputs], target).items():
            torch.testing.assert_close(losses.pop(prefix + key), weight * value)
    torch.testing.assert_close(losses.pop("unlabelled consistency"), 0.6 * method.disagreement(answers))
    assert not losses


def test_one_optimiser_trains_encoder_and_three_decoders_and_the_model_is_the_network():
    method = build("mutual_consistency")
    sum(next(method.turns(a_batch(method), RAMPED))[1].values()).backward()
    (player,) = method.players().values()
    expected = [*method.network.parameters(), *method.others.parameters()]
    assert {id(p) for p in player.parameters()} == {id(p) for p in expected}
    assert all((p.grad != 0).any() for p in expected)
    assert method.average.state_dict().keys() == method.network.state_dict().keys()
    heads = [decoder.heads[0].weight for decoder in (method.network.decoder, *method.others.values())]
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])


def test_the_other_decoders_wait_for_unlabelled_images(tmp_path):
    method = build("mutual_consistency", start=0.0, unlabelled_weight=0.0)
    before = copy.deepcopy(method.others.state_dict())
    trained(method, tmp_path, PLAN)
    assert all(torch.equal(value, before[key]) for key, value in method.others.state_dict().items())


@pytest.mark.parametrize("dims", [2, 3])
def test_the_two_other_ways_of_up_sampling(dims):
    stride = (2, 3, 1)[:dims]
    x = torch.randn(2, 4, *(3, 4, 5)[:dims])
    for kind in (resize_linear, resize_nearest):
        layer = kind(dims, 4, 2, stride)
        small, large = layer[0](x), layer(x)
        assert large.shape == (2, 2, *(n * s for n, s in zip(x.shape[2:], stride, strict=True)))
        repeated = small
        for axis, s in enumerate(stride, 2):
            repeated = repeated.repeat_interleave(s, axis)
        assert torch.equal(large, repeated) is (kind is resize_nearest)
        torch.testing.assert_close(large.mean(), small.mean(), atol=0.1, rtol=0.5)


def test_the_decoders_differ_in_up_sampling_alone():
    method = build("mutual_consistency", tiny_plan(2))
    own = {key for key in method.network.decoder.state_dict() if ".up." not in key}
    for decoder in method.others.values():
        assert {key for key in decoder.state_dict() if ".up." not in key} == own
