"""What a step of every method costs, counted in images that pass an encoder or a decoder with and without gradient."""

import pytest
import torch
from test_methods import RAMPED, a_batch, build

from foveate.methods import METHODS
from foveate.networks import NETWORKS
from foveate.networks.unet import Decoder


def cost(method, batch):
    """Images through a whole network, forward and backward; encoder and decoder are a half each, and a pass without
    gradient is a third."""
    spent = []

    def count(_, args):
        spent.append(len(args[0]) * (1 if torch.is_grad_enabled() else 1 / 3) / 2)

    for module in method.modules():
        if isinstance(module, tuple(NETWORKS.values())):
            module.encoder[0].register_forward_pre_hook(count)
        if isinstance(module, Decoder):
            module.stages[0].register_forward_pre_hook(count)
    for _, losses in method.turns(batch, RAMPED):
        sum(losses.values()).backward()
    return sum(spent)


# No image passes the network of a deep belief network: a step is a few convolutions of one layer.
@pytest.mark.parametrize("name", [name for name in METHODS if name != "deep_belief"])
@pytest.mark.parametrize("batch", [2, 4, 5])
def test_a_step_costs_at_most_twice_the_baseline_and_a_little(name, batch):
    method = build(name)
    labelled, unlabelled = method.shares(batch, RAMPED)
    assert batch <= cost(method, a_batch(method, labelled=labelled, unlabelled=unlabelled)) <= 2.2 * batch


def test_the_cost_counts_what_it_says():
    expected = {
        "supervised": 4,
        "entropy_minimisation": 4,
        "self_training": 4,
        "temporal_ensembling": 4,
        "mean_teacher": 4 + 2 / 3,
        "pi_model": 6,
        "uncertainty_mean_teacher": 4 + 4 * 2 / 3,
        "cross_consistency": 4 + 3 * 2 / 2,
        "cross_pseudo": 8,
        "unimatch": 8 + 2 / 3,
    }
    for name, images in expected.items():
        method = build(name)
        labelled, unlabelled = method.shares(4, RAMPED)
        batch = a_batch(method, labelled=labelled, unlabelled=unlabelled)
        assert cost(method, batch) == pytest.approx(images), name


@pytest.mark.parametrize("name", METHODS)
def test_one_network_beside_the_players_is_kept_and_no_more(name):
    method = build(name)
    player = {id(p) for module in method.players().values() for p in module.parameters()}
    beside = [p for p in method.parameters() if id(p) not in player]
    assert len(beside) == len(list(method.average.parameters()))
