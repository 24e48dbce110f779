"""The loop minimises what a method says, one player after the other, and stops when numbers stop being numbers."""

import math

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from foveate.batches.cache import PreparedCohort
from foveate.batches.sampler import Batch, Sampler
from foveate.cohort.split import Split
from foveate.config import AugmentConfig, MethodConfig, NetworkConfig, OptimiserConfig
from foveate.engine.loop import read_ahead, train_loop, train_step
from foveate.engine.schedule import Schedule
from foveate.errors import FoveateError
from foveate.methods import METHODS, Method, Supervised
from foveate.methods.method import ENOUGH
from foveate.networks import build_network
from foveate.tasks import build_task
from toys import STILL, prepared_case, pseudo_labels, tiny_plan, toy_cohort

PLAN = tiny_plan(2, patch=(8, 8))


def fabric(precision="32-true"):
    return Fabric(accelerator="cpu", devices=1, precision=precision)


def sampler(cohort, plan=PLAN, augment=STILL):
    split = Split(tuple(cohort.labelled), (), tuple(cohort.unlabelled))
    return Sampler(cohort, plan, augment, split, 0, torch.device("cpu"))


def build(kind=Supervised, plan=PLAN, network=None, **settings):
    torch.manual_seed(0)
    task = build_task(plan)

    def another(name="unet"):
        return build_network(NetworkConfig(name=name), plan, task.channels)

    return kind(network or another(), task, MethodConfig(**settings), 0.9, another)


def optimisers(method, kind=torch.optim.SGD, **settings):
    return {name: kind(player.parameters(), **settings) for name, player in method.players().items()}


def a_batch(plan=PLAN):
    images = torch.randn(2, 1, *plan.patch, generator=torch.Generator().manual_seed(0))
    return Batch(images, (images[:, 0] > 0).to(torch.uint8), images[:0])


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# The loss of a deep belief network is the difference of two free energies: its gradient means something, it does not.
# That of adversarial constraints has a critic's score in it, and learns nothing from labels and images.
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"deep_belief", "adversarial_constraint"}))
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_losses_decrease(tmp_path, name, precision):
    plan = tiny_plan(2, patch=(16, 16), widths=(4, 4, 6, 8), strides=((1, 1), *[(2, 2)] * 3))
    method = build(METHODS[name], plan, start=0.5, ramp=0.1)
    source = sampler(toy_cohort(tmp_path, plan), plan)
    config = OptimiserConfig(learning_rate=3e-2, warmup_steps=2)
    seen = []
    players = optimisers(method, torch.optim.AdamW)
    schedule = Schedule(60, None)
    before = pseudo_labels(tmp_path, method, source, schedule)
    train_loop(fabric(precision), method, players, source, schedule, config, seen.append, before)
    assert len(seen) == 60
    labelled = [sum(losses[k] for k in seen[0]) for losses in seen]  # those that are minimised from the first step on
    assert np.mean(labelled[-5:]) < 0.5 * np.mean(labelled[:3])
    assert (flat(method.average) != flat(method.network)).any()
    assert not method.average.training


def test_a_loss_that_is_not_a_number_stops_and_names_the_cases(tmp_path):
    labels = np.ones((10, 10), np.uint8)
    cohort = PreparedCohort(
        {
            name: prepared_case(tmp_path, name, np.full((1, 10, 10), value, np.float32), labels)
            for name, value in (("good", 0.5), ("bad", np.nan))
        }
    )
    plan = tiny_plan(2, patch=(8, 8), batch=1)
    method, weights = build(plan=plan), []
    players, source = optimisers(method, lr=0.1), sampler(cohort, plan)

    def keep(_):
        weights.append(flat(method))

    with pytest.raises(FoveateError, match=r"step \d+: the loss .* is not finite .*Cases of this batch: bad\."):
        train_loop(fabric(), method, players, source, Schedule(50, None), OptimiserConfig(), keep)
    assert 0 < len(weights) < 50
    assert torch.equal(flat(method), weights[-1])  # no weight, averaged or not, has seen the bad numbers


def test_the_rate_of_the_schedule_reaches_every_player_and_a_request_to_stop_is_followed(tmp_path):
    method = build(Adversarial)
    players = optimisers(method, lr=123.0)
    config = OptimiserConfig(learning_rate=0.1, warmup_steps=4)
    rates = []

    def after_step(losses):
        rates.append([group["lr"] for optimiser in players.values() for group in optimiser.param_groups])
        if len(rates) == 3:
            raise KeyboardInterrupt

    schedule = Schedule(10, None)
    with pytest.raises(KeyboardInterrupt):
        train_loop(fabric(), method, players, sampler(toy_cohort(tmp_path, PLAN)), schedule, config, after_step)
    expected = [0.1 * (s + 1) / 4 * (1 - s / 10) ** config.power for s in range(3)]
    assert rates == [pytest.approx([rate, rate]) for rate in expected]
    assert schedule.step == 3


def test_reading_ahead_gives_the_batches_of_their_steps_across_the_change_of_shares(tmp_path):
    cohort = toy_cohort(tmp_path, PLAN)
    method = build(METHODS["mean_teacher"], start=0.5, ramp=0.0)
    schedule, found = Schedule(10, None), []
    schedule.step = 2  # as after a resume
    for batch in read_ahead(sampler(cohort, augment=AugmentConfig()), method, schedule):
        found.append(batch)
        schedule.stepped(0.0)
    assert len(found) == 8
    source = sampler(cohort, augment=AugmentConfig())
    for step, batch in enumerate(found, 2):
        shares = (4, 0) if step < 5 else (2, 2)
        expected = source.batch(step, source.read(step, *shares), 1)
        assert batch.cases == expected.cases
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.weak, expected.weak)
        assert batch.seed == expected.seed


def test_few_unlabelled_scans_take_their_share_of_a_batch_and_no_more(tmp_path):
    source = sampler(toy_cohort(tmp_path, PLAN, labelled=6, unlabelled=2))
    method = build(METHODS["mean_teacher"], start=0.0, ramp=0.0)
    batch = next(iter(read_ahead(source, method, Schedule(2, None))))
    assert (len(batch.images), len(batch.weak)) == (3, 1)


def test_unlabelled_scans_teach_once_the_labelled_ones_have_been_shown_often(tmp_path):
    source = sampler(toy_cohort(tmp_path, PLAN))
    places = PLAN.batch / source.views(1)
    begin = math.ceil(ENOUGH * places / PLAN.batch)  # the step by which they have been shown so often
    method, schedule, first = build(METHODS["mean_teacher"]), Schedule(2 * begin, None), None
    for batch in read_ahead(source, method, schedule):
        if len(batch.weak):
            first = schedule.step
            break
        schedule.stepped(0.0)
    assert first == pytest.approx(begin, abs=1)
    short = read_ahead(source, method, Schedule(begin // 2, None))
    assert not len(next(short).weak)
    assert method.weight(1.0) == 0


# --- players


class Adversarial(Method):
    """Two players: the network pleases a critic; the critic then sees the network as it is after its step."""

    def __init__(self, *args):
        super().__init__(*args)
        self.critic = nn.Linear(3, 1)
        self.seen = []

    def players(self):
        return {"network": self.network, "critic": self.critic}

    def judged(self, images):
        outputs = self.network(images)
        return self.critic((outputs[0] if isinstance(outputs, list) else outputs).flatten(2).mean(2)).mean()

    def turns(self, batch, progress):
        self.seen.append(flat(self.network))
        yield "network", {"pleases": -self.judged(batch.images)}
        self.seen.append(flat(self.network))
        yield "critic", {"judges": self.judged(batch.images), "size": 0.1 * flat_squared(self.critic)}


def flat_squared(module):
    return sum(p.square().sum() for p in module.parameters())


def test_two_players_take_turns_and_the_second_sees_the_first_after_its_step():
    method, by_hand = build(Adversarial), build(Adversarial)
    batch = a_batch()
    losses = train_step(fabric(), method, optimisers(method, lr=0.1), batch, Schedule(10, None), clip=1e9)

    network = [
        p - 0.1 * g
        for p, g in zip(
            by_hand.network.parameters(), grads(by_hand.network, -by_hand.judged(batch.images)), strict=True
        )
    ]
    first = flat(by_hand.network)
    with torch.no_grad():
        for p, value in zip(by_hand.network.parameters(), network, strict=True):
            p.copy_(value)
    loss = by_hand.judged(batch.images) + 0.1 * flat_squared(by_hand.critic)
    critic = [p - 0.1 * g for p, g in zip(by_hand.critic.parameters(), grads(by_hand.critic, loss), strict=True)]

    assert torch.equal(method.seen[0], first)
    torch.testing.assert_close(method.seen[1], flat(by_hand.network))
    assert not torch.equal(method.seen[0], method.seen[1])
    torch.testing.assert_close(flat(method.network), flat(by_hand.network))  # the critic's turn left it alone
    torch.testing.assert_close(flat(method.critic), torch.cat([p.detach().flatten() for p in critic]))
    assert set(losses) == {"pleases", "judges", "size"}
    assert not any(value.requires_grad for value in losses.values())


def grads(module, loss):
    return torch.autograd.grad(loss, list(module.parameters()), allow_unused=False)


def test_a_second_step_does_not_inherit_gradients_of_the_other_players_turn():
    method, by_hand = build(Adversarial), build(Adversarial)
    players = optimisers(method, lr=0.1)
    schedule = Schedule(10, None)
    train_step(fabric(), method, players, a_batch(), schedule, clip=1e9)  # the critic's turn left gradients behind
    by_hand.load_state_dict(method.state_dict())
    train_step(fabric(), method, players, a_batch(), schedule, clip=1e9)
    step = grads(by_hand.network, -by_hand.judged(a_batch().images))
    expected = flat(by_hand.network) - 0.1 * torch.cat([g.flatten() for g in step])
    torch.testing.assert_close(flat(method.network), expected)


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_gradients_are_clipped_to_the_norm_of_the_configuration(clip):
    method, by_hand = build(), build()
    before = flat(method.network)
    train_step(fabric(), method, optimisers(method, lr=1.0), a_batch(), Schedule(10, None), clip)
    ((_, losses),) = by_hand.turns(a_batch(), 0.0)
    gradient = torch.cat([g.flatten() for g in grads(by_hand.network, sum(losses.values()))])
    expected = gradient * min(1.0, clip / float(gradient.norm()))
    torch.testing.assert_close(before - flat(method.network), expected, atol=1e-6, rtol=1e-3)


def test_the_average_moves_after_the_players():
    method = build()
    start = flat(method.average)
    schedule = Schedule(10, None)
    schedule.step = 2
    train_step(fabric(), method, optimisers(method, lr=0.1), a_batch(), schedule, 5.0)
    decay = 3 / 12
    torch.testing.assert_close(flat(method.average), decay * start + (1 - decay) * flat(method.network))
