"""UA-MT: the mean of a few noisy teacher passes teaches where its entropy is below a threshold that grows."""

import math

import pytest
import torch
from test_methods import RAMPED, a_batch, build, decided, inputs_of

from foveate.methods.uncertainty_mean_teacher import PASSES

NAME = "uncertainty_mean_teacher"


def answers_of(module):
    """A list that grows by the output of every call of ``module``."""
    seen = []
    module.register_forward_hook(lambda _, args, output: seen.append(output))
    return seen


def test_the_loss_is_the_squared_difference_to_the_mean_pass_where_its_entropy_is_low():
    method = decided(build(NAME, unlabelled_weight=0.7), 2.0)
    batch = a_batch(method, labelled=3)
    student, passes = inputs_of(method.network), answers_of(method.average)
    ((_, losses),) = method.turns(batch, 0.25)  # inside the ramp
    assert torch.equal(torch.cat(student), torch.cat([batch.images, batch.strong[0]]))
    assert len(passes) == PASSES
    assert not any(answer.requires_grad for answer in passes)

    ramp = math.exp(-5 * (1 - 0.05 / 0.1) ** 2)
    mean = torch.stack([logits.softmax(1) for logits in passes]).mean(0)
    entropy = -(mean * mean.log()).sum(1)
    sure = entropy < (0.75 + 0.25 * ramp) * math.log(3)
    assert 0.05 < sure.float().mean() < 0.95
    fine, coarse = (logits.softmax(1) for logits in method.network(batch.strong[0]))
    errors = (fine - mean).square().mean(1)
    share = sure[:, None].float().unflatten(2, (-1, 2)).unflatten(4, (-1, 2))
    weight = share.mean((3, 5))
    target = (mean.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)) * share).mean((3, 5)) / weight.clamp_min(1e-6)
    coarser = ((coarse - target).square().mean(1, keepdim=True) * weight).sum() / weight.sum()
    expected = 0.7 * ramp * (errors[sure].mean() + coarser / 2) / 1.5
    torch.testing.assert_close(losses["unlabelled mse"], expected, rtol=1e-4, atol=1e-7)


def test_passes_differ_by_noise_on_the_image_and_by_dropped_features():
    method = decided(build(NAME))
    batch = a_batch(method)
    images, features, passes = inputs_of(method.average), [], answers_of(method.average)
    method.average.decoder.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    list(method.turns(batch, RAMPED))
    for i in range(PASSES):
        noise = images[i] - batch.weak
        assert 0.15 < noise.abs().max() <= 0.2 + 1e-6
        dropped = [(level.flatten(2) == 0).all(2).float().mean() for level in features[i]]
        assert 0.1 < torch.stack(dropped).mean() < 0.9
        assert not any(torch.equal(passes[i], passes[j]) for j in range(i))


def test_the_threshold_grows_from_three_quarters_of_the_largest_entropy_to_all_of_it(monkeypatch):
    method = build(NAME, start=0.2, ramp=0.4, unlabelled_weight=3.0)
    batch, thresholds = a_batch(method), []
    teach = method.teach
    monkeypatch.setattr(method, "teach", lambda batch, limit: thresholds.append(limit) or teach(batch, limit))
    for progress in (0.2, 0.4, 0.6, 1.0):
        list(method.turns(batch, progress))
    assert thresholds == pytest.approx([0.75 + 0.25 * math.exp(-x) for x in (5, 1.25, 0, 0)])


def test_below_the_threshold_a_voxel_teaches_and_above_it_not():
    method = decided(build(NAME))
    batch = a_batch(method)
    entropy = method.task.entropy(method.teach(batch, 1.0).values)
    for limit in (0.3, 0.7, 0.9):
        assert torch.equal(method.teach(batch, limit).weight, (entropy < limit).float())
