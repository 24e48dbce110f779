"""Self-training adds the task's loss of strong views against the pseudo-labels of their scans, times its weight."""

import torch
from test_methods import RAMPED, a_batch, build, inputs_of


def test_pseudo_labels_teach_strong_views_as_labels_do():
    method = build("self_training", unlabelled_weight=0.7)
    batch = a_batch(method, labelled=3)
    batch.pseudo[0, :4] = 255  # what nobody is sure of
    student, teacher = inputs_of(method.network), inputs_of(method.average)
    (_, losses), *rest = method.turns(batch, RAMPED)
    assert not rest
    assert not teacher
    assert torch.equal(torch.cat(student), torch.cat([batch.images, batch.strong[0]]))
    task = method.task
    labelled = task.loss(method.network(batch.images), task.encode(batch.labels))
    pseudo = task.loss(method.network(batch.strong[0]), task.encode(batch.pseudo))
    expected = labelled | {f"unlabelled {key}": 0.7 * value for key, value in pseudo.items()}
    assert losses.keys() == expected.keys()
    for key, value in losses.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=0)
