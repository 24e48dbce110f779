"""The pi-model compares two views through one student, and learns from both sides of the comparison."""

import pytest
import torch
from test_methods import PLAN, RAMPED, a_batch, build, gradients, inputs_of

from foveate.config import NetworkConfig
from foveate.networks import build_network


def single_headed(**settings):
    torch.manual_seed(0)
    network = build_network(NetworkConfig(deep_supervision=False), PLAN, 3)
    return build("pi_model", network=network, **settings)


def test_the_loss_is_the_mean_squared_difference_of_two_views_and_its_gradient_flows_through_both():
    method = single_headed(unlabelled_weight=0.7)
    batch = a_batch(method, labelled=3)
    student, teacher = inputs_of(method.network), inputs_of(method.average)
    found = gradients(method, batch)
    assert torch.equal(torch.cat(student), torch.cat([batch.images, *batch.strong]))
    assert not teacher

    def by_hand(detach):
        method.zero_grad(set_to_none=True)
        first, second = (method.network(view)[0].softmax(1) for view in batch.strong)
        difference = (first - (second.detach() if detach else second)).square().mean()
        labelled = method.task.loss(method.network(batch.images), method.task.encode(batch.labels))
        (sum(labelled.values()) + 0.7 * difference).backward()
        return torch.cat([parameter.grad.flatten() for parameter in method.network.parameters()])

    torch.testing.assert_close(found, by_hand(detach=False), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(found, by_hand(detach=True), rtol=1e-3, atol=1e-5)


def test_coarser_heads_learn_the_other_view_s_finest_answer():
    method = build("pi_model", unlabelled_weight=1.0)
    batch = a_batch(method)
    ((_, losses),) = method.turns(batch, RAMPED)
    outputs = [[logits.softmax(1) for logits in method.network(view)] for view in batch.strong]
    (fine, coarse), (other_fine, other_coarse) = outputs

    def pooled(values):
        return values.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))

    there, back = (coarse - pooled(other_fine)).square().mean(), (other_coarse - pooled(fine)).square().mean()
    expected = ((fine - other_fine).square().mean() + (there + back) / 2 / 2) / 1.5
    torch.testing.assert_close(losses["unlabelled mse"], expected, rtol=1e-4, atol=1e-7)


def test_equal_views_teach_nothing():
    method = single_headed()
    batch = a_batch(method)
    batch.strong[1] = batch.strong[0].clone()
    ((_, losses),) = method.turns(batch, RAMPED)
    assert float(losses["unlabelled mse"].detach()) == pytest.approx(0, abs=1e-10)
