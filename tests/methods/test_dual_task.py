"""Signed distances by brute force; two heads that agree cost nothing; ignored voxels teach no distance."""

import itertools

import numpy as np
import pytest
import torch
from test_methods import PLAN, RAMPED, a_batch, build

from foveate.methods.dual_task import DISTANCE, heaviside, signed_distance

SPACINGS = [(6, 7, (1.0, 2.5)), (4, 5, 3, (0.7, 1.0, 3.0))]
REGIONS = PLAN.model_copy(update={"classes": {"whole": (1, 2), "core": (2,)}})


def drawn(*size):
    return torch.from_numpy(np.random.default_rng(0).random((2, 2, *size)) < 0.4)


@pytest.mark.parametrize("case", SPACINGS, ids=["2D", "3D"])
def test_signed_distance_is_that_to_the_nearest_voxel_of_the_other_side(case):
    *size, spacing = case
    masks = drawn(*size)
    known = torch.ones(2, 1, *size)
    known[1, :, : size[0] // 3] = 0  # beyond the scan, where nobody knows which side a voxel is on
    found = signed_distance(masks.float(), known, spacing)
    assert torch.equal(found[1, :, : size[0] // 3], torch.zeros_like(found[1, :, : size[0] // 3]))
    mm = torch.tensor(spacing, dtype=torch.float64)
    for b, k in itertools.product(range(2), repeat=2):
        mask, places = masks[b, k], known[b, 0].nonzero().tolist()
        distance = {}
        for p in map(tuple, places):
            others = ((mask != mask[p]) & (known[b, 0] > 0)).nonzero()
            distance[p] = float(((others - torch.tensor(p)) * mm).norm(dim=1).min())
        for inside, sign in ((True, -1), (False, 1)):
            own = {p: d for p, d in distance.items() if bool(mask[p]) is inside}
            for p, d in own.items():
                assert float(found[(b, k, *p)]) == pytest.approx(sign * d / max(own.values()), rel=1e-5)


def test_a_class_that_a_patch_lacks_is_far_away_and_one_that_fills_it_is_all_inside():
    masks = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])[None]
    found = signed_distance(masks, torch.ones(1, 1, 4, 4), (1.0, 1.0))
    assert torch.equal(found, 1 - 2 * masks)


@pytest.mark.parametrize("size", [(9, 8), (6, 5, 4)])
def test_the_heaviside_of_the_distance_is_the_mask(size):
    masks = drawn(*size).float()
    distances = signed_distance(masks, torch.ones_like(masks[:, :1]), (1.0,) * len(size))
    torch.testing.assert_close(heaviside(distances), masks)
    assert float(heaviside(torch.zeros(()))) == 0.5


@pytest.mark.parametrize("plan", [PLAN, REGIONS], ids=["classes", "regions"])
def test_the_loss_by_hand_and_ignored_voxels_have_no_weight(plan):
    method = build("dual_task", plan, unlabelled_weight=0.6)
    batch = a_batch(method)
    batch.labels[:, :4] = 255
    losses = next(method.turns(batch, RAMPED))[1]
    images = torch.cat([batch.images, batch.strong[0]])
    features = method.network.decoder.features(method.network.encode(images))[0]
    distances = torch.tanh(method.head(features))
    members = [[1, 2], [2]] if plan.regions else [[1], [2]]
    masks = torch.stack([torch.isin(batch.labels, torch.tensor(values)) for values in members], dim=1)
    true = signed_distance(masks, (batch.labels != 255)[:, None], (1.0, 1.0))
    error = (distances[:2] - true).square()[:, :, 4:].mean()
    torch.testing.assert_close(losses["dual distance"], 0.6 * DISTANCE * error)
    logits = method.network(images)[0]
    probabilities = logits.sigmoid() if plan.regions else logits.softmax(1)[:, 1:]
    consistency = (probabilities - torch.sigmoid(-1500 * distances)).square().mean()
    torch.testing.assert_close(losses["dual consistency"], 0.6 * consistency)
    labelled = method.task.loss(method.network(batch.images), method.task.encode(batch.labels))
    for key, value in labelled.items():
        torch.testing.assert_close(losses[key], value)


def test_heads_that_agree_cost_nothing_and_heads_that_differ_cost_one():
    method = build("dual_task")
    head, distances = method.network.decoder.heads[0], method.head
    for layer in (head, distances):
        torch.nn.init.zeros_(layer.weight)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([-50.0, 50.0, -50.0]))  # class 1 everywhere
        for bias, expected in (([-1.0, 1.0], 0.0), ([1.0, -1.0], 1.0)):
            distances.bias.copy_(torch.tensor(bias))
            losses = next(method.turns(a_batch(method), RAMPED))[1]
            assert losses["dual consistency"].item() == pytest.approx(expected)


def test_both_heads_learn_by_one_optimiser_and_only_the_network_is_the_model():
    method = build("dual_task")
    method.zero_grad(set_to_none=True)
    sum(next(method.turns(a_batch(method), RAMPED))[1].values()).backward()
    assert set(method.players()) == {"network"}
    player = list(method.players()["network"].parameters())
    assert len(player) == len(list(method.network.parameters())) + 2
    assert all((p.grad != 0).any() for p in player)
    assert method.average.state_dict().keys() == method.network.state_dict().keys()
