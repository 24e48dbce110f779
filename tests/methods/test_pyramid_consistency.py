"""Scales are drawn to their mean, less where they are uncertain, and not at all where they agree."""

import math

import pytest
import torch
from test_methods import PLAN, RAMPED, a_batch, build

from foveate.config import NetworkConfig
from foveate.errors import InputError
from foveate.methods.pyramid_consistency import rectified_consistency
from foveate.networks import build_network
from foveate.tasks import build_task
from toys import tiny_plan

REGIONS = PLAN.model_copy(update={"classes": {"whole": (1, 2), "core": (2,)}})


def test_scales_that_agree_cost_nothing():
    logits = torch.randn(2, 3, 4, 5)
    losses = rectified_consistency(torch.stack([logits.log_softmax(1)] * 3))
    assert all(abs(float(value)) < 1e-6 for value in losses.values())


def test_the_loss_is_that_of_the_paper_voxel_by_voxel():
    torch.manual_seed(0)
    scales = (3 * torch.randn(3, 2, 4, 2, 3, dtype=torch.float64)).log_softmax(2)
    p = scales.exp()
    consistency, uncertainty = 0.0, 0.0
    for r in range(3):
        above = below = 0.0
        for b in range(2):
            for i in range(2):
                for j in range(3):
                    own = p[r, b, :, i, j].tolist()
                    mean = p[:, b, :, i, j].mean(0).tolist()
                    divergence = sum(a * math.log(a / m) for a, m in zip(own, mean, strict=True))
                    squared = sum((a - m) ** 2 for a, m in zip(own, mean, strict=True)) / 4
                    above += math.exp(-divergence) * squared
                    below += math.exp(-divergence)
                    uncertainty += divergence / (3 * 12)
        consistency += above / below / 3
    losses = rectified_consistency(scales)
    assert losses["consistency"].item() == pytest.approx(consistency)
    assert losses["uncertainty"].item() == pytest.approx(uncertainty)


def test_regions_diverge_as_choices_of_two():
    task = build_task(REGIONS)
    a, b = 0.9, 0.3
    scales = torch.stack([task.log_probabilities(torch.logit(torch.full((1, 2, 1, 1), p))) for p in (a, b)])
    mean = (a + b) / 2
    divergence = [2 * (p * math.log(p / mean) + (1 - p) * math.log((1 - p) / (1 - mean))) for p in (a, b)]
    losses = rectified_consistency(scales)
    assert losses["uncertainty"].item() == pytest.approx(sum(divergence) / 2, rel=1e-5)
    assert losses["consistency"].item() == pytest.approx((a - mean) ** 2, rel=1e-5)


@pytest.mark.parametrize("plan", [PLAN, REGIONS], ids=["classes", "regions"])
def test_a_network_that_says_the_same_at_every_resolution_is_left_alone(plan):
    method = build("pyramid_consistency", plan)
    for head in method.network.decoder.heads:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, 0.4)
    losses = next(method.turns(a_batch(method), RAMPED))[1]
    torch.nn.init.constant_(method.network.decoder.heads[1].bias, -0.4)
    torch.nn.init.constant_(method.network.decoder.heads[1].bias[:1], 3.0)
    apart = next(method.turns(a_batch(method), RAMPED))[1]
    for key in ("unlabelled consistency", "unlabelled uncertainty"):
        assert abs(losses[key].item()) < 1e-6
        assert apart[key].item() > 1e-3


@pytest.mark.parametrize(
    ("plan", "deep_supervision"), [(PLAN, False), (tiny_plan(2), True)], ids=["one head", "three stages"]
)
def test_a_network_of_one_answer_is_refused_with_what_to_do(plan, deep_supervision):
    network = build_network(NetworkConfig(deep_supervision=deep_supervision), plan, 3)
    with pytest.raises(InputError) as caught:
        build("pyramid_consistency", plan, network)
    message = str(caught.value)
    assert "network.deep_supervision" in message
    assert "pyramid_consistency" in message
    assert "at least four stages" in message
