"""Self-training learns the pseudo-labels of strong views in one loss with the labels, as if they were labels."""

import torch
from test_methods import RAMPED, a_batch, build, inputs_of


def test_pseudo_labels_are_labels_of_less_weight():
    method = build("self_training", unlabelled_weight=0.7)
    batch = a_batch(method, labelled=3)
    batch.pseudo[0, :4] = 255  # what nobody is sure of
    student, teacher = inputs_of(method.network), inputs_of(method.average)
    (_, losses), *rest = method.turns(batch, RAMPED)
    assert not rest
    assert not teacher
    images = torch.cat([batch.images, batch.strong[0]])
    assert torch.equal(torch.cat(student), images)
    target = method.task.encode(torch.cat([batch.labels, batch.pseudo]))
    weight = torch.ones(5, 1, 16, 16)
    weight[3:] = 0.7
    weight[3, 0, :4] = 0
    target.weight = weight
    expected = method.task.loss(method.network(images), target)
    assert losses.keys() == expected.keys()
    for key, value in losses.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=0)
