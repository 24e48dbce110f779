"""Classification and regression: losses against their equations, unknown labels, calibration, intervals."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foveate.tasks import Target, build_task
from toys import tiny_plan

CLASSES = {"a": 0, "b": 1, "c": 2}


def classification(**changes):
    return build_task(tiny_plan(task="classification", whole=True, classes=CLASSES, **changes))


def regression(**changes):
    return build_task(tiny_plan(task="regression", whole=True, classes={}, **changes))


def test_loss_is_weighted_cross_entropy():
    task = classification(class_weights={"a": 1.0, "b": 2.0, "c": 0.5})
    logits, classes = torch.randn(8, 3), torch.randint(0, 3, (8,))
    found = task.loss(logits, task.encode(F.one_hot(classes, 3).float()))
    weighted = F.cross_entropy(logits, classes, weight=torch.tensor([1.0, 2.0, 0.5]), reduction="sum") / 8
    torch.testing.assert_close(found["ce"], weighted)


def test_loss_of_several_classes_at_once_is_binary_cross_entropy():
    task = classification(exclusive=False, class_weights={"a": 1.0, "b": 3.0, "c": 1.0})
    logits, labels = torch.randn(8, 3), torch.randint(0, 2, (8, 3)).float()
    expected = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=torch.tensor([1.0, 3.0, 1.0]))
    torch.testing.assert_close(task.loss(logits, task.encode(labels))["ce"], expected)


@pytest.mark.parametrize(
    "task", [classification(), classification(exclusive=False), regression(), regression(loss="huber")]
)
def test_an_unknown_label_teaches_nothing(task):
    labels = torch.rand(4, 3 if task.name == "classification" else 1).round()
    unknown = torch.cat([labels, torch.full_like(labels[:1], torch.nan)])
    logits = torch.randn(5, task.channels, requires_grad=True)
    for loss in (task.loss, task.squared_error):
        some, all_ = loss(logits[:4], task.encode(labels)), loss(logits, task.encode(unknown))
        for name in some:
            torch.testing.assert_close(all_[name], some[name])
            (gradient,) = torch.autograd.grad(all_[name], logits)
            assert (gradient[4] == 0).all()
            assert (gradient[:4] != 0).any()


def test_gaussian_loss_is_the_likelihood_and_huber_that_of_torch():
    gaussian, huber = regression(), regression(loss="huber")
    logits, labels = torch.randn(6, 2), torch.randn(6, 1)
    expected = F.gaussian_nll_loss(logits[:, :1], labels, logits[:, 1:].exp())
    torch.testing.assert_close(gaussian.loss(logits, gaussian.encode(labels))["nll"], expected)
    torch.testing.assert_close(
        huber.loss(logits[:, :1], huber.encode(labels))["huber"], F.huber_loss(logits[:, :1], labels)
    )


def test_pseudo_labels_go_the_round():
    """What ``decode`` writes, ``encode`` reads as the hardened pseudo-label."""
    for task in (classification(), classification(exclusive=False), regression()):
        logits = 3 * torch.randn(20, task.channels)
        hard = task.harden(task.pseudo_label(logits, 0.8))
        read = task.encode(task.decode(logits, 0.8))
        torch.testing.assert_close(read.weight, hard.weight)
        torch.testing.assert_close(read.values * read.weight, hard.values * hard.weight)
    assert 0 < classification().pseudo_label(torch.randn(200, 3), 0.6).weight.mean() < 1


@pytest.mark.parametrize("exclusive", [True, False])
def test_temperature_undoes_what_made_logits_too_sure(exclusive):
    """Labels drawn from softmax(z); the network says 3 z: the temperature is 3."""
    task = classification(exclusive=exclusive)
    random = torch.Generator().manual_seed(0)
    z = 1.5 * torch.randn(4000, 3, generator=random)
    p = task.probabilities(z)
    if exclusive:
        labels = F.one_hot(torch.multinomial(p, 1, generator=random)[:, 0], 3).float()
    else:
        labels = torch.bernoulli(p, generator=random)
    assert not task.fit((3 * z).numpy(), labels.numpy())
    assert task.temperature == pytest.approx(3, rel=0.1)
    np.testing.assert_allclose(task.answers((3 * z).numpy()), p.numpy(), atol=0.05)
    other = classification(exclusive=exclusive)
    other.restore(task.description())
    assert other.temperature == task.temperature


def test_few_cases_leave_the_temperature():
    task = classification()
    said = task.fit(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32))
    assert said.startswith("3 labelled validation cases are too few to calibrate")
    assert task.temperature == 1


def test_class_weights_do_not_change_the_answer():
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    weighted = classification(class_weights={"a": 5.0, "b": 1.0, "c": 1.0})
    np.testing.assert_array_equal(weighted.answers(logits), classification().answers(logits))


def test_score_is_macro_f1_over_the_classes_that_are_shown():
    task = classification()
    labels, answers = np.eye(3, dtype=np.float32)[[0, 0, 1, 1]], np.eye(3, dtype=np.float32)[[0, 1, 1, 1]]
    found = task.score(answers, labels)  # a: 2 of 3, b: 4 of 5
    assert found == {"macro_f1": pytest.approx((2 / 3 + 4 / 5) / 2), "accuracy": 0.75}


def test_accuracy_of_several_labels_is_that_of_each_answer():
    task = classification(exclusive=False)
    labels, answers = np.array([[1.0, 0, 1], [0, 0, 1]]), np.array([[3.0, 3, 3], [-3, -3, 3]])
    assert task.score(answers.astype(np.float32), labels.astype(np.float32))["accuracy"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("loss", ["gaussian", "huber"])
def test_interval_holds_nine_tenths_of_new_cases(loss):
    """Errors of a deviation that the network underestimates by four, and differs between cases."""
    task = regression(loss=loss, target_mean=50.0, target_std=10.0)
    random = np.random.default_rng(0)

    def draw(n):
        spread = random.uniform(0.1, 0.5, (n, 1))
        logits = np.concatenate([random.normal(size=(n, 1)), 2 * np.log(spread)], axis=1).astype(np.float32)
        return logits[:, : task.channels], logits[:, :1] + 4 * spread * random.normal(size=(n, 1))

    assert not task.fit(*draw(1000))
    logits, labels = draw(4000)
    value, low, high = task.answers(logits).T
    inside = (low <= 50 + 10 * labels[:, 0]) & (50 + 10 * labels[:, 0] <= high)
    assert inside.mean() == pytest.approx(0.9, abs=0.02)
    np.testing.assert_allclose(value, 50 + 10 * logits[:, 0], rtol=1e-5)
    other = regression(loss=loss)
    other.restore(task.description())
    assert other.factor == task.factor


def test_interval_without_enough_cases_to_fit_it():
    gaussian, huber = regression(), regression(loss="huber")
    for task in (gaussian, huber):
        said = task.fit(np.zeros((8, task.channels), np.float32), np.ones((8, 1), np.float32))
        assert said.startswith("8 labelled validation cases are too few for intervals")
    low, high = gaussian.answers(np.zeros((1, 2), np.float32))[0, 1:]
    assert (low, high) == (pytest.approx(-1.645), pytest.approx(1.645))
    assert math.isnan(huber.answers(np.zeros((1, 1), np.float32))[0, 1])


def test_blend_of_targets_is_that_of_segmentation():
    a, b = Target(torch.eye(3), torch.ones(3, 1)), Target(torch.full((3, 3), 1 / 3), torch.tensor([[1.0], [1], [0]]))
    mixed = a.blend(b, 0.25)
    torch.testing.assert_close(mixed.values, torch.eye(3) / 4 + 0.25)
    assert mixed.weight[:, 0].tolist() == [1, 1, 0]
