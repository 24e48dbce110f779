"""The critic tells labels from answers of the network as it is after its step; neither's turn touches the other."""

import pytest
import torch
from test_methods import PLAN, RAMPED, a_batch, build, inputs_of

from foveate.methods.adversarial import ADVERSARIAL
from foveate.networks.critic import Critic

REGIONS = PLAN.model_copy(update={"classes": {"whole": (1, 2), "core": (2,)}})


def probabilities(method, images):
    with torch.no_grad():
        logits = method.network(images)[0]
    return logits.sigmoid() if method.task.regions else logits.softmax(1)


@pytest.mark.parametrize("plan", [PLAN, REGIONS], ids=["classes", "regions"])
def test_both_turns_by_hand_and_the_critic_sees_the_network_after_its_step(plan):
    method = build("adversarial", plan, unlabelled_weight=0.6)
    batch = a_batch(method, labelled=3)
    batch.labels[:, :4] = 255
    target = method.task.encode(batch.labels)
    before, own = probabilities(method, batch.strong[0]), probabilities(method, batch.images)
    seen = inputs_of(method.critic)
    turns = method.turns(batch, RAMPED)

    player, losses = next(turns)
    assert player == "network"
    torch.testing.assert_close(seen[0], before)
    adversarial = -method.critic(before).sigmoid().log().mean()
    torch.testing.assert_close(losses["unlabelled adversarial"], 0.6 * ADVERSARIAL * adversarial)
    for key, value in method.task.loss(method.network(batch.images), target).items():
        torch.testing.assert_close(losses[key], value)
    sum(losses.values()).backward()
    torch.optim.SGD(method.network.parameters(), lr=0.5).step()
    seen.clear()

    player, losses = next(turns)
    assert player == "critic"
    labels, answers = seen
    after = probabilities(method, batch.strong[0])
    torch.testing.assert_close(answers, after)
    assert (answers - before).abs().max() > 1e-3
    assert torch.equal(labels[:, :, 4:], target.values[:, :, 4:])
    torch.testing.assert_close(labels[:, :, :4], own[:, :, :4])  # nothing is known there: no trace of a label's edge
    real = -method.critic(labels).sigmoid().log()[:, :, 4:].mean()
    made = -(1 - method.critic(after).sigmoid()).log().mean()
    assert losses.keys() == {"critic"}
    torch.testing.assert_close(losses["critic"], real + made)
    assert next(turns, None) is None


def test_a_turn_gives_its_own_player_gradient_and_no_other():
    method = build("adversarial")
    turns = method.turns(a_batch(method), RAMPED)
    for player, other in (("network", "critic"), ("critic", "network")):
        method.zero_grad(set_to_none=True)
        sum(next(turns)[1].values()).backward()
        assert all((p.grad != 0).any() for p in method.players()[player].parameters())
        assert all(p.grad is None for p in method.players()[other].parameters())
        assert all(p.requires_grad for p in method.critic.parameters())


def test_a_critic_that_has_learned_pulls_answers_towards_labels():
    """Labels are decided and answers are not: after its lesson the critic wants the network to decide."""
    method = build("adversarial")
    batch = a_batch(method)
    optimiser = torch.optim.Adam(method.critic.parameters(), lr=1e-2)
    for _ in range(30):
        turns = method.turns(batch, RAMPED)
        next(turns)
        optimiser.zero_grad()
        next(turns)[1]["critic"].backward()
        optimiser.step()
    labels, answers = method.task.encode(batch.labels).values, probabilities(method, batch.strong[0])
    with torch.no_grad():
        assert method.critic(labels).mean() > 1 > -1 > method.critic(answers).mean()
    pleasing = next(method.turns(batch, RAMPED))[1]["unlabelled adversarial"]
    parameters = list(method.network.parameters())
    gradient = torch.autograd.grad(pleasing, parameters, allow_unused=True)
    scale = 0.1 / torch.cat([g.flatten() for g in gradient if g is not None]).norm()
    with torch.no_grad():
        for parameter, slope in zip(parameters, gradient, strict=True):
            if slope is not None:
                parameter -= scale * slope
        assert method.critic(probabilities(method, batch.strong[0])).mean() > method.critic(answers).mean()


def test_until_unlabelled_images_enter_there_is_no_turn_of_the_critic():
    method = build("adversarial", start=0.5)
    assert [player for player, _ in method.turns(a_batch(method), 0.1)] == ["network"]


@pytest.mark.parametrize("size", [(16, 16), (5, 7), (9, 8, 5)])
def test_the_critic_judges_every_voxel_and_every_image_by_itself(size):
    torch.manual_seed(0)
    critic = Critic(3, len(size))
    images = torch.rand(2, 3, *size)
    judged = critic(images)
    assert judged.shape == (2, 1, *size)
    torch.testing.assert_close(judged, torch.cat([critic(image[None]) for image in images]))
    judged.square().sum().backward()
    assert all((p.grad != 0).any() for p in critic.parameters())
