"""Two networks teach each other by the hard answer of before the step, and neither's turn touches the other."""

import pytest
import torch
from test_methods import PLAN, RAMPED, a_batch, build
from torch import nn

from foveate.config import NetworkConfig
from foveate.networks import NETWORKS, UNet, WindowUNet, build_network
from foveate.tasks import Target
from toys import tiny_plan

both = pytest.mark.parametrize("name", ["cross_pseudo", "cross_teaching"])
REGIONS = tiny_plan(2, classes={"whole": (1, 2), "core": (2,)})


def voxelwise(name, plan=None, **settings):
    """The method around two networks that look at one voxel at a time."""
    method = build(name, plan or tiny_plan(2), **settings)
    for key in ("network", "second"):
        setattr(method, key, nn.Conv2d(1, method.task.channels, 1))
    return method


@both
@pytest.mark.parametrize("plan", [tiny_plan(2), REGIONS], ids=["classes", "regions"])
def test_each_learns_labels_and_the_other_s_hard_answer_of_before_the_step(name, plan):
    method = voxelwise(name, plan, unlabelled_weight=0.7)
    batch, task = a_batch(method, labelled=3), method.task
    view = batch.strong[0]
    with torch.no_grad():
        answers = {key: player(view) for key, player in method.players().items()}
    if plan.regions:
        hard = {key: (logits > 0).float() for key, logits in answers.items()}
    else:
        hard = {key: torch.eye(3)[logits.argmax(1)].movedim(-1, 1) for key, logits in answers.items()}
    assert not torch.equal(hard["network"], hard["second"])
    turns = method.turns(batch, RAMPED)
    for player, teacher, prefix in (("network", "second", ""), ("second", "network", "second ")):
        network = method.players()[player]
        whose, losses = next(turns)
        assert whose == player
        expected = task.loss(network(batch.images), task.encode(batch.labels))
        everywhere = torch.ones(2, 1, *view.shape[2:])
        unlabelled = task.loss(network(view), Target(hard[teacher], everywhere))
        expected |= {f"unlabelled {key}": 0.7 * value for key, value in unlabelled.items()}
        assert losses.keys() == {prefix + key for key in expected}
        for key, value in expected.items():
            torch.testing.assert_close(losses[prefix + key], value)
        sum(losses.values()).backward()
        torch.optim.SGD(network.parameters(), lr=50.0).step()
    assert next(turns, None) is None
    assert not torch.equal(method.network(view).argmax(1), answers["network"].argmax(1))  # the step did change answers


@both
def test_a_turn_gives_its_own_player_gradient_and_no_other(name):
    method = build(name)
    turns = method.turns(a_batch(method), RAMPED)
    for player, other in (("network", "second"), ("second", "network")):
        method.zero_grad(set_to_none=True)
        sum(next(turns)[1].values()).backward()
        assert all(p.grad is not None for p in method.players()[player].parameters())
        assert all(p.grad is None for p in method.players()[other].parameters())


@both
def test_before_the_start_the_second_learns_the_labelled_images_alone(name):
    method = build(name, start=0.5)
    batch = a_batch(method)
    batch.strong[0].fill_(torch.nan)
    (_, first), (player, losses) = method.turns(batch, 0.1)
    assert player == "second"
    assert losses.keys() == {f"second {key}" for key in first}
    expected = method.task.loss(method.second(batch.images), method.task.encode(batch.labels))
    for key, value in expected.items():
        torch.testing.assert_close(losses[f"second {key}"], value)


@both
def test_only_sure_answers_teach(name):
    method = voxelwise(name, confidence=0.99)
    for player in method.players().values():
        nn.init.constant_(player.weight, 0.0)
        nn.init.zeros_(player.bias)
    with torch.no_grad():
        method.second.weight[1] = 20.0  # sure of class 1 where it is bright
    batch = a_batch(method)
    batch.strong[0][:] = 0.0
    batch.strong[0][..., 0] = 5.0
    sure = torch.zeros(2, 1, *batch.weak.shape[2:])
    sure[..., 0] = 1
    values = torch.zeros(2, 3, *batch.weak.shape[2:])
    values[:, 1] = 1
    losses = next(method.turns(batch, RAMPED))[1]
    for key, value in method.task.loss(method.network(batch.strong[0]), Target(values, sure)).items():
        torch.testing.assert_close(losses[f"unlabelled {key}"], value)


def test_two_of_one_architecture_with_weights_of_their_own():
    method = build("cross_pseudo")
    first, second = (player.state_dict() for player in (method.network, method.second))
    assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}
    assert not torch.equal(first["encoder.0.0.body.0.weight"], second["encoder.0.0.body.0.weight"])


@pytest.mark.parametrize(("own", "other"), [("unet", WindowUNet), ("window_unet", UNet)])
def test_a_transformer_teaches_a_convolutional_network_and_the_reverse(own, other):
    method = build("cross_teaching", network=build_network(NetworkConfig(name=own), PLAN, 3))
    assert type(method.second) is other
    assert type(method.average) is NETWORKS[own]
