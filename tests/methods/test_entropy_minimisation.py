"""Entropy minimisation asks for certainty on unlabelled images and on nothing else."""

import torch
from test_methods import RAMPED, a_batch, build, gradients, inputs_of


def mean_entropy(method, images):
    """By hand: -sum p log p / log 3 at the finest resolution."""
    logits = method.network(images)[0].log_softmax(1)
    return -(logits.exp() * logits).sum(1).mean() / torch.tensor(3.0).log()


def test_the_loss_is_that_of_the_labels_and_the_entropy_of_every_head_on_weak_views():
    method = build("entropy_minimisation", unlabelled_weight=0.7)
    batch, seen = a_batch(method, labelled=3), inputs_of(method.network)
    ((_, losses),) = method.turns(batch, RAMPED)
    assert torch.equal(torch.cat(seen), torch.cat([batch.images, batch.weak]))

    outputs = method.network(batch.weak)
    assert len(outputs) == 2
    fine, coarse = (method.task.entropy(logits.softmax(1)).mean() for logits in outputs)
    expected = method.task.loss(method.network(batch.images), method.task.encode(batch.labels))
    expected["unlabelled entropy"] = 0.7 * (fine + coarse / 2) / 1.5
    assert losses.keys() == expected.keys()
    for key, value in losses.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6)


def test_a_step_down_the_unlabelled_gradient_makes_the_student_surer():
    method = build("entropy_minimisation", unlabelled_weight=1000.0)  # labels have no say beside it
    batch = a_batch(method)
    before = float(mean_entropy(method, batch.weak).detach())
    gradients(method, batch)
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter -= 1e-4 * parameter.grad
    assert float(mean_entropy(method, batch.weak).detach()) < before - 1e-3
