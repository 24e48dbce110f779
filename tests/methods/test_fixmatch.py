"""FixMatch: the student's own answers, hardened and only where it is sure, teach the strong view."""

import torch
from test_methods import RAMPED, a_batch, build, decided, inputs_of


def test_the_loss_is_that_of_hard_labels_above_the_threshold():
    method = decided(build("fixmatch", unlabelled_weight=0.7, confidence=0.8))
    batch = a_batch(method, labelled=3)
    with torch.no_grad():
        for parameter in method.average.parameters():
            parameter.zero_()  # an average that has a say would be noticed
    student, teacher, with_gradient = inputs_of(method.network), inputs_of(method.average), []
    method.network.register_forward_pre_hook(lambda *_: with_gradient.append(torch.is_grad_enabled()))
    ((_, losses),) = method.turns(batch, RAMPED)
    assert not teacher
    assert with_gradient == [True, False]
    assert torch.equal(student[0], torch.cat([batch.images, batch.strong[0]]))
    assert torch.equal(student[1], batch.weak)

    task = method.task
    p = method.network(batch.weak)[0].detach().softmax(1)
    sure = p.amax(1) >= 0.8
    assert 0.02 < sure.float().mean() < 0.98
    answer = torch.where(sure, p.argmax(1), 255).to(torch.uint8)  # an ignored voxel is one that does not teach
    unlabelled = task.loss(method.network(batch.strong[0]), task.encode(answer))
    expected = task.loss(method.network(batch.images), task.encode(batch.labels))
    expected |= {f"unlabelled {key}": 0.7 * value for key, value in unlabelled.items()}
    assert losses.keys() == expected.keys()
    for key, value in losses.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6)


def test_a_student_that_is_sure_of_nothing_learns_from_labels_alone():
    method = build("fixmatch")
    ((_, losses),) = method.turns(a_batch(method), RAMPED)
    assert method.sureness == 0.95
    method.zero_grad(set_to_none=True)
    sum(value for key, value in losses.items() if key.startswith("unlabelled")).backward()
    assert all(p.grad is None or not p.grad.any() for p in method.network.parameters())
