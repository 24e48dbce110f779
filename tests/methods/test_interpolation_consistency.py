"""ICT mixes images and the teacher's answers by the same lambda."""

import pytest
import torch
from test_methods import RAMPED, a_batch, build, decided, inputs_of
from torch import nn

NAME = "interpolation_consistency"


class Curved(nn.Module):
    """Logits that are a curved function of the grey value of each voxel: the mixture of two answers is no answer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * torch.cat([torch.zeros_like(x), 3 * x**2, 2 * x], dim=1)


def probabilities(value, scale):
    return (scale * torch.tensor([0.0, 3 * value**2, 2 * value])).softmax(0)


def test_the_target_is_the_mixture_of_the_teacher_s_answers_by_the_lambda_of_the_images():
    method = build(NAME, network=Curved(), unlabelled_weight=0.7)
    with torch.no_grad():
        method.average.scale.fill_(0.5)  # teacher and student do not agree
    shares = []
    for seed in range(20):
        batch = a_batch(method, labelled=3, seed=seed)
        batch.weak[0], batch.weak[1] = 1.0, -1.0
        student, teacher = inputs_of(method.network), inputs_of(method.average)
        ((_, losses),) = method.turns(batch, RAMPED)
        method.network._forward_pre_hooks.clear()
        method.average._forward_pre_hooks.clear()
        assert torch.equal(torch.cat(teacher), batch.weak)
        assert torch.equal(student[0][:3], batch.images)
        mixed = student[0][3:]
        values = mixed.flatten(1)
        assert torch.equal(values.amin(1), values.amax(1))
        first, second = values[:, 0].tolist()
        assert first == pytest.approx(-second, abs=1e-6)  # the pair and its reverse
        share = (first + 1) / 2
        shares.append(share)
        one, other = probabilities(1.0, 0.5), probabilities(-1.0, 0.5)
        errors = [
            (probabilities(first, 1.0) - share * one - (1 - share) * other).square().mean(),
            (probabilities(second, 1.0) - share * other - (1 - share) * one).square().mean(),
        ]
        torch.testing.assert_close(losses["unlabelled mse"], 0.7 * sum(errors) / 2, rtol=1e-3, atol=1e-6)
    assert min(shares) < 0.2 < 0.8 < max(shares)


def test_a_single_unlabelled_image_is_mixed_with_the_first_labelled_one():
    method = build(NAME, network=Curved(), unlabelled_weight=1.0)
    batch = a_batch(method, labelled=3, unlabelled=1)
    batch.weak[:], batch.images[0] = 1.0, -1.0
    student, teacher = inputs_of(method.network), inputs_of(method.average)
    ((_, losses),) = method.turns(batch, RAMPED)
    assert torch.equal(torch.cat(teacher), torch.cat([batch.weak, batch.images[:1]]))
    assert len(student[0]) == 4
    value = float(student[0][3].mean())
    share = (value + 1) / 2
    assert 0 < share < 1
    target = share * probabilities(1.0, 1.0) + (1 - share) * probabilities(-1.0, 1.0)
    expected = (probabilities(value, 1.0) - target).square().mean()
    torch.testing.assert_close(losses["unlabelled mse"], expected, rtol=1e-3, atol=1e-6)


def test_a_mixed_voxel_teaches_where_the_teacher_is_sure_of_both_images():
    method = decided(build(NAME, confidence=0.7))
    batch = a_batch(method, unlabelled=3)
    answers, squared_error = [], method.task.squared_error
    method.task.squared_error = lambda out, target: answers.append(target) or squared_error(out, target)
    list(method.turns(batch, RAMPED))
    sure = (method.average(batch.weak).softmax(1).amax(1, keepdim=True) >= 0.7).float()
    assert 0 < sure.mean() < 1
    assert torch.equal(answers[0].weight, sure * sure[[2, 0, 1]])
