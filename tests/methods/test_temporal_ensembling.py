"""Temporal ensembling learns what was remembered of a scan, where it is known, from another view of it."""

import torch
from test_methods import PLAN, RAMPED, a_batch, build, inputs_of

from foveate.config import NetworkConfig
from foveate.networks import build_network


def test_the_loss_is_the_mean_squared_difference_to_what_is_remembered():
    torch.manual_seed(0)
    network = build_network(NetworkConfig(deep_supervision=False), PLAN, 3)
    method = build("temporal_ensembling", network=network, unlabelled_weight=0.7)
    batch = a_batch(method, labelled=3)
    batch.pseudo[0, -1, :4] = 0.6  # read between what is known and what is not
    student, teacher = inputs_of(method.network), inputs_of(method.average)
    ((_, losses),) = method.turns(batch, RAMPED)
    assert torch.equal(torch.cat(student), torch.cat([batch.images, batch.strong[0]]))
    assert not teacher
    squared = (method.network(batch.strong[0])[0].softmax(1) - batch.pseudo[:, :-1]).square().mean(1)
    known = torch.ones(2, 16, 16)
    known[0, :4] = 0
    expected = 0.7 * (squared * known).sum() / known.sum()
    torch.testing.assert_close(losses["unlabelled mse"], expected, rtol=1e-4, atol=1e-7)


def test_what_is_remembered_of_a_student_that_never_changed_is_no_lesson():
    method = build("temporal_ensembling")
    batch = a_batch(method)
    with torch.no_grad():
        outputs = method.network(batch.strong[0])
        batch.pseudo[:, :-1] = outputs[0].softmax(1)
    ((_, losses),) = method.turns(batch, RAMPED)
    fine, coarse = (logits.softmax(1) for logits in outputs)
    pooled = fine.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
    # The finest answer is the lesson itself; only the coarser one has something to learn.
    expected = 10 * (coarse - pooled).square().mean() / 3
    torch.testing.assert_close(losses["unlabelled mse"], expected, rtol=1e-3, atol=1e-6)
