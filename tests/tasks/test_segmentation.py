"""The loss, score and label coding of segmentation against what can be worked out voxel by voxel."""

import itertools
import math

import numpy as np
import pytest
import torch

from foveate.tasks import Segmentation, Target
from foveate.tasks.segmentation import IGNORE, soft_dice
from toys import tiny_plan

NESTED = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
BRATS = {"whole": (1, 2, 4), "core": (1, 4), "enhancing": 4}
PARTS = {"organ": (1, 2), "left": (1,), "right": (2,)}
SHAPES = {2: (6, 5), 3: (4, 5, 3)}

in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def segmentation(classes=None, dims=2):
    return Segmentation(tiny_plan(dims, classes=classes or {"front": 1, "back": 2}))


def draw_labels(values, dims=2, batch=2, seed=0):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.choice(values, (batch, *SHAPES[dims])).astype(np.uint8))


def draw_logits(task, labels, seed=0):
    return torch.randn(len(labels), task.channels, *labels.shape[1:], generator=torch.Generator().manual_seed(seed)) * 2


def total(task, logits, target):
    return sum(task.loss(logits, target).values())


def loss_by_hand(logits, labels, members, regions):
    """(dice, ce) of logits ``[B, K, *S]`` and labels ``[B, *S]``, one voxel after the other."""
    known = [index for index in np.ndindex(labels.shape) if labels[index] != IGNORE]
    channels = logits.shape[1]
    overlap, sizes, entropy = np.zeros(channels), np.zeros(channels), 0.0
    for b, *place in known:
        z = logits[(b, slice(None), *place)].astype(np.float64)
        truth = [labels[(b, *place)] in values for values in members]
        if regions:
            p = 1 / (1 + np.exp(-z))
            terms = [-math.log(p[k] if truth[k] else 1 - p[k]) for k in range(channels)]
            entropy += sum(terms) / channels
        else:
            truth = [not any(truth), *truth]
            p = np.exp(z) / np.exp(z).sum()
            entropy += -math.log(p[truth.index(True)])
        for k in range(channels):
            overlap[k] += p[k] * truth[k]
            sizes[k] += p[k] + truth[k]
    first = 0 if regions else 1
    dice = (2 * overlap + 1e-5) / (sizes + 1e-5)
    return 1 - dice[first:].mean(), entropy / len(known)


@in_2d_and_3d
@pytest.mark.parametrize("classes", [{"front": 1, "back": 2}, NESTED], ids=["classes", "regions"])
def test_loss_equals_the_sum_over_voxels(dims, classes):
    task = segmentation(classes, dims)
    labels = draw_labels([0, 1, 2, 3, IGNORE], dims)
    logits = draw_logits(task, labels)
    terms = task.loss(logits, task.encode(labels))
    members = [v if isinstance(v, tuple) else (v,) for v in classes.values()]
    dice, entropy = loss_by_hand(logits.numpy(), labels.numpy(), members, classes is NESTED)
    assert float(terms["dice"]) == pytest.approx(dice, abs=1e-5)
    assert float(terms["ce"]) == pytest.approx(entropy, rel=1e-5)


@pytest.mark.parametrize("classes", [None, NESTED], ids=["classes", "regions"])
def test_ignored_voxels_teach_nothing(classes):
    task = segmentation(classes)
    labels = draw_labels([0, 1, 2, IGNORE])
    logits = draw_logits(task, labels).requires_grad_()
    total(task, logits, task.encode(labels)).backward()
    ignored = (labels == IGNORE)[:, None].expand_as(logits)
    assert (logits.grad[ignored] == 0).all()
    assert (logits.grad[~ignored] != 0).all()


def test_a_batch_without_any_known_voxel_gives_a_finite_loss_and_no_gradient():
    task = segmentation()
    labels = torch.full((1, 4, 4), IGNORE, dtype=torch.uint8)
    logits = draw_logits(task, labels).requires_grad_()
    loss = total(task, logits, task.encode(labels))
    loss.backward()
    assert loss.isfinite()
    assert (logits.grad == 0).all()


def test_a_certain_pseudo_label_is_a_label():
    task = segmentation()
    labels = draw_labels([0, 1, 2])
    certain = (task.encode(labels).values - 0.5) * 200
    pseudo = task.pseudo_label(certain)
    logits = draw_logits(task, labels)
    torch.testing.assert_close(task.loss(logits, pseudo), task.loss(logits, task.encode(labels)))


@in_2d_and_3d
def test_nothing_answers_a_soft_target_better_than_itself(dims):
    """Of the product in place of the minimum it is the target rounded at half its Dice: structures would grow."""
    target = torch.rand(2, 3, *SHAPES[dims], generator=torch.Generator().manual_seed(0))
    known = torch.ones(2, 1, *SHAPES[dims])
    torch.testing.assert_close(soft_dice(target, target, known), torch.ones(3))
    for other in [(target > cut).float() for cut in (0.3, 0.4, 0.5)] + [target * 0.9, target.sqrt()]:
        assert (soft_dice(other, target, known) < 0.999).all()


@pytest.mark.parametrize("classes", [None, NESTED], ids=["classes", "regions"])
def test_pseudo_labels_teach_only_where_the_teacher_is_sure(classes):
    task = segmentation(classes)
    labels = draw_labels([0, 1, 2])
    logits = draw_logits(task, labels)
    target = task.pseudo_label(logits, confidence=0.8)
    for b, i, j in np.ndindex(*labels.shape):
        p = target.values[b, :, i, j]
        sure = bool((torch.maximum(p, 1 - p) >= 0.8).all()) if classes else bool((p >= 0.8).any())
        assert float(target.weight[b, 0, i, j]) == float(sure)
    assert 0 < float(target.weight.mean()) < 1
    assert (task.pseudo_label(logits).weight == 1).all()


@pytest.mark.parametrize("classes", [NESTED, BRATS, PARTS], ids=["nested", "brats", "parts"])
def test_labels_survive_coding_as_regions_in_any_order(classes):
    values = sorted({v for member in classes.values() for v in (member if isinstance(member, tuple) else (member,))})
    labels = draw_labels([0, *values])
    for names in itertools.permutations(classes):
        task = segmentation({name: classes[name] for name in names})
        certain = (task.encode(labels).values - 0.5) * 20
        assert torch.equal(task.decode(certain), labels), names


def test_labels_survive_coding_as_classes_whatever_their_values():
    task = segmentation({"a": 7, "b": 3})
    labels = draw_labels([0, 3, 7])
    assert torch.equal(task.decode(task.encode(labels).values * 20), labels)


def test_an_uncertain_voxel_gets_the_likeliest_class():
    task = segmentation({"a": 7, "b": 3})
    logits = torch.tensor([[0.0, 0.1, -1.0], [0.2, 0.1, 0.0], [0.0, 0.1, 0.3]]).T.reshape(1, 3, 3, 1)
    assert task.decode(logits).flatten().tolist() == [7, 0, 3]


@pytest.mark.parametrize("classes", [{"front": 1, "back": 2, "none": 5}, NESTED], ids=["classes", "regions"])
def test_score_counts_voxels_and_is_nan_where_both_lack_the_structure(classes):
    task = segmentation(classes)
    labels, predicted = draw_labels([0, 1, 2, IGNORE]), draw_labels([0, 1, 2], seed=1)
    labels[labels == 3] = predicted[predicted == 3] = 0
    found = task.score(predicted, labels)
    for value, members in zip(found.tolist(), classes.values(), strict=True):
        members = members if isinstance(members, tuple) else (members,)
        a = b = both = 0
        for p, t in zip(predicted.flatten().tolist(), labels.flatten().tolist(), strict=True):
            if t != IGNORE:
                a, b, both = a + (p in members), b + (t in members), both + (p in members and t in members)
        assert math.isnan(value) if a + b == 0 else value == pytest.approx(2 * both / (a + b))
    assert math.isnan(found[-1])


@in_2d_and_3d
def test_coarser_outputs_count_half_and_see_the_mean_of_their_voxels(dims):
    task = segmentation(dims=dims)
    labels = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 2, IGNORE], (2, *[4] * dims)).astype(np.uint8))
    target = task.encode(labels)
    fine = draw_logits(task, labels)
    middle, coarse = (torch.randn(2, task.channels, *[n] * dims) for n in (2, 1))

    def seen_from(blocks):
        """The mean over the known voxels of every block, and the known share of the block."""
        side = 4 // blocks
        values, weight = torch.zeros(2, task.channels, *[blocks] * dims), torch.zeros(2, 1, *[blocks] * dims)
        for corner in itertools.product(range(blocks), repeat=dims):
            part = (slice(None), slice(None), *[slice(c * side, (c + 1) * side) for c in corner])
            known = target.weight[part].flatten(2)
            cell = (slice(None), slice(None), *corner)
            weight[cell] = known.mean(2)
            values[cell] = (target.values[part].flatten(2) * known).sum(2) / known.sum(2).clamp_min(1e-6)
        return Target(values, weight)

    expected = (
        total(task, fine, target) + total(task, middle, seen_from(2)) / 2 + total(task, coarse, seen_from(1)) / 4
    ) / 1.75
    torch.testing.assert_close(total(task, [fine, middle, coarse], target), expected)
    torch.testing.assert_close(total(task, [fine], target), total(task, fine, target))


@pytest.mark.parametrize("classes", [None, NESTED], ids=["classes", "regions"])
def test_entropy_is_the_sum_over_outcomes_as_a_share_of_the_largest(classes):
    task = segmentation(classes)
    values = task.probabilities(draw_logits(task, draw_labels([0])))
    found = task.entropy(values)
    assert found.shape == (2, 1, *SHAPES[2])
    for b, i, j in np.ndindex(2, *SHAPES[2]):
        p = values[b, :, i, j].tolist()
        if classes:
            expected = np.mean([-q * math.log2(q) - (1 - q) * math.log2(1 - q) for q in p])
        else:
            expected = -sum(q * math.log(q) for q in p) / math.log(3)
        assert float(found[b, 0, i, j]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("classes", [None, NESTED], ids=["classes", "regions"])
def test_entropy_goes_from_certain_to_undecided_and_its_gradient_stays_finite(classes):
    task = segmentation(classes)
    undecided = torch.zeros(1, task.channels, 2, 2)
    certain = torch.full_like(undecided, -200.0)
    certain[:, 1] = 200.0  # one probability is 1 and the others are exactly 0
    assert task.entropy(task.probabilities(undecided)).flatten().tolist() == pytest.approx([1.0] * 4)
    assert task.entropy(task.probabilities(certain)).flatten().tolist() == pytest.approx([0.0] * 4, abs=1e-5)
    for logits in (undecided, certain):
        logits.requires_grad_()
        task.entropy_loss(logits)["entropy"].backward()
        assert logits.grad.isfinite().all()


@in_2d_and_3d
def test_the_entropy_loss_is_the_mean_entropy_with_coarser_outputs_counting_half(dims):
    task = segmentation(dims=dims)
    outputs = [torch.randn(2, task.channels, *[n] * dims) for n in (4, 2, 1)]
    means = [float(task.entropy(task.probabilities(logits)).mean()) for logits in outputs]
    expected = (means[0] + means[1] / 2 + means[2] / 4) / 1.75
    assert float(task.entropy_loss(outputs)["entropy"]) == pytest.approx(expected, rel=1e-5)
    assert float(task.entropy_loss(outputs[0])["entropy"]) == pytest.approx(means[0], rel=1e-5)


@in_2d_and_3d
@pytest.mark.parametrize("classes", [None, NESTED], ids=["classes", "regions"])
def test_the_squared_error_is_its_mean_over_channels_and_taught_voxels(dims, classes):
    task = segmentation(classes, dims)
    labels = draw_labels([0, 1, 2, IGNORE], dims)
    target, logits = task.encode(labels), draw_logits(task, labels)
    target.values = target.values * 0.7 + 0.1  # soft answers
    p = task.probabilities(logits)
    errors = [
        float(((p[(b, slice(None), *place)] - target.values[(b, slice(None), *place)]) ** 2).mean())
        for b, *place in np.ndindex(labels.shape)
        if labels[(b, *place)] != IGNORE
    ]
    assert float(task.squared_error(logits, target)["mse"]) == pytest.approx(np.mean(errors), rel=1e-5)
    target.weight.zero_()
    assert float(task.squared_error(logits, target)["mse"]) == 0


def test_coarser_outputs_have_a_squared_error_to_the_mean_of_their_voxels():
    task = segmentation()
    fine, coarse, answer = (torch.randn(2, task.channels, n, n) for n in (4, 2, 4))
    target = task.pseudo_label(answer)
    blocks = target.values.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5))
    expected = (
        (task.probabilities(fine) - target.values).square().mean()
        + (task.probabilities(coarse) - blocks).square().mean() / 2
    ) / 1.5
    torch.testing.assert_close(task.squared_error([fine, coarse], target)["mse"], expected)


@pytest.mark.parametrize("classes", [None, NESTED], ids=["classes", "regions"])
def test_a_hardened_target_is_the_label_map_that_the_logits_decode_to(classes):
    task = segmentation(classes)
    logits = draw_logits(task, draw_labels([0]))
    soft = task.pseudo_label(logits, confidence=0.8)
    hard = task.harden(soft)
    assert torch.equal(hard.weight, soft.weight)
    if classes:
        assert torch.equal(hard.values, (logits > 0).float())
    else:
        assert torch.equal(hard.values, task.encode(task.decode(logits)).values)
    assert torch.equal(task.harden(hard).values, hard.values)


def test_blending_shares_out_values_and_teaches_where_both_sides_teach():
    one, other = (Target(torch.full((1, 2, 1, 2), value), torch.ones(1, 1, 1, 2)) for value in (1.0, 0.0))
    other.weight[..., 1] = 0
    blended = one.blend(other, 0.3)
    torch.testing.assert_close(blended.values, torch.full((1, 2, 1, 2), 0.3))
    assert blended.weight.flatten().tolist() == [1, 0]


def test_mixing_takes_every_voxel_from_the_side_that_the_mask_says():
    task = segmentation()
    one, other = (task.encode(draw_labels([0, 1, 2, IGNORE], seed=seed)) for seed in (0, 1))
    mask = torch.rand(2, 1, *SHAPES[2]) < 0.5
    mixed = one.mix(other, mask)
    for b, i, j in np.ndindex(2, *SHAPES[2]):
        source = one if mask[b, 0, i, j] else other
        assert torch.equal(mixed.values[b, :, i, j], source.values[b, :, i, j])
        assert torch.equal(mixed.weight[b, :, i, j], source.weight[b, :, i, j])
