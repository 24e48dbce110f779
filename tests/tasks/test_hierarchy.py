"""Segmentation by a label tree: sums over the tree, the flat task as its special case, and labels that stop early."""

import math

import pytest
import torch

from foveate.tasks import HierarchicalSegmentation, Segmentation, build_task
from foveate.tasks.task import _coarser
from toys import tiny_plan

# 4 is a core of unknown kind, 5 a tumour of unknown parts; "vessel" has no finer classes, "bed" no value of its own.
CLASSES = {
    "enhancing": 1,
    "necrotic": 2,
    "oedema": 3,
    "core": 4,
    "tumour": 5,
    "vessel": 6,
    "artery bed": 7,
    "vein bed": 8,
}
TREE = {"tumour": ("core", "oedema"), "core": ("enhancing", "necrotic"), "bed": ("artery bed", "vein bed")}
ABOVE = {
    "core": "tumour",
    "oedema": "tumour",
    "enhancing": "core",
    "necrotic": "core",
    "artery bed": "bed",
    "vein bed": "bed",
}
VALUES = (0, *CLASSES.values(), 255)
SIZES = {2: (6, 5), 3: (4, 5, 3)}
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def a_task(dims=2):
    return build_task(tiny_plan(dims, classes=CLASSES, tree=TREE))


def draw(task, dims=2, values=VALUES):
    random = torch.Generator().manual_seed(0)
    labels = torch.tensor(values)[torch.randint(len(values), (2, *SIZES[dims]), generator=random)].to(torch.uint8)
    return torch.randn(2, task.channels, *SIZES[dims], generator=random) * 2, labels


def below(name):
    return [name, *(n for child in TREE.get(name, ()) for n in below(child))]


def way(name):
    return [name, *(way(ABOVE[name]) if name in ABOVE else [])]


def share(task, z, name):
    """Softmax over the siblings of a node, from the logits of one voxel."""
    top = [n for n in task.names if n not in ABOVE]
    siblings = TREE[ABOVE[name]] if name in ABOVE else top
    total = sum(math.exp(z[task.names.index(n)]) for n in siblings)
    return math.exp(z[task.names.index(name)]) / total


@in_2d_and_3d
def test_probability_of_a_node_is_the_product_over_its_path(dims):
    task = a_task(dims)
    logits, _ = draw(task, dims)
    p = task.probabilities(logits)
    torch.testing.assert_close(p[:, task.leaves].sum(1), torch.ones(2, *SIZES[dims]))
    for node, children in TREE.items():
        parts = p[:, [task.names.index(child) for child in children]].sum(1)
        torch.testing.assert_close(p[:, task.names.index(node)], parts)
    place = (1, slice(None), *(2 for _ in SIZES[dims]))
    for node, name in enumerate(task.names):
        by_hand = math.prod(share(task, logits[place].tolist(), n) for n in way(name))
        assert float(p[place][node]) == pytest.approx(by_hand, rel=1e-5)
    torch.testing.assert_close(task.log_probabilities(logits), p[:, task.leaves].log())


def test_loss_is_the_sum_over_the_path_and_dice_over_what_is_known():
    task = a_task()
    logits, labels = draw(task)
    names = {0: "background", **{value: name for name, value in CLASSES.items()}}
    terms, entropy, count = task.loss(logits, task.encode(labels)), 0.0, 0
    overlap, sizes = dict.fromkeys(task.names[1:], 0.0), dict.fromkeys(task.names[1:], 0.0)
    for b, i, j in torch.cartesian_prod(torch.arange(2), *map(torch.arange, SIZES[2])).tolist():
        if (value := int(labels[b, i, j])) == 255:
            continue
        z, label = logits[b, :, i, j].tolist(), names[value]
        entropy -= sum(math.log(share(task, z, n)) for n in way(label))
        count += 1
        for name in overlap:
            if name in below(label)[1:]:  # the label does not say
                continue
            p, true = math.prod(share(task, z, n) for n in way(name)), name in way(label)
            overlap[name] += p * true
            sizes[name] += p + true
    dice = [(2 * overlap[name] + 1e-5) / (sizes[name] + 1e-5) for name in overlap]
    assert float(terms["ce"]) == pytest.approx(entropy / count, rel=1e-5)
    assert float(terms["dice"]) == pytest.approx(1 - sum(dice) / len(dice), abs=1e-5)


@in_2d_and_3d
def test_a_tree_of_depth_one_is_the_flat_task(dims):
    plan = tiny_plan(dims)
    flat, tree = Segmentation(plan), HierarchicalSegmentation(plan)
    logits, labels = draw(flat, dims, (0, 1, 2, 255))
    for name in ("loss", "squared_error"):
        expected, found = (getattr(task, name)(logits, task.encode(labels)) for task in (flat, tree))
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(tree.entropy_loss(logits), flat.entropy_loss(logits))
    expected, found = (vars(task.pseudo_label(logits, 0.6)) for task in (flat, tree))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(tree.harden(tree.encode(labels)).values, flat.harden(flat.encode(labels)).values)
    assert torch.equal(tree.decode(logits, 0.5), flat.decode(logits, 0.5))
    torch.testing.assert_close(tree.score(labels.flip(1), labels), flat.score(labels.flip(1), labels))


@pytest.mark.parametrize("label", ["tumour", "core", "oedema"])
@pytest.mark.parametrize("loss", ["loss", "squared_error"])
def test_what_lies_below_a_label_gets_exactly_no_gradient(label, loss):
    task = a_task()
    logits, _ = draw(task)
    logits.requires_grad_()
    labels = torch.full((2, *SIZES[2]), CLASSES[label], dtype=torch.uint8)
    sum(getattr(task, loss)([logits, logits[..., ::2, ::2]], task.encode(labels)).values()).backward()
    moved = {name for node, name in enumerate(task.names) if logits.grad[:, node].any()}
    assert moved == set(task.names) - set(below(label)[1:])


def test_a_coarse_voxel_of_two_kinds_of_label_teaches_what_the_finer_one_says():
    task = a_task()
    labels = torch.tensor([[[1, 4], [1, 4]]], dtype=torch.uint8)  # half of it enhancing, half some core
    coarse = _coarser(task.encode(labels), torch.Size((1, 1)))
    node = task.names.index("enhancing")
    assert task.known(coarse)[0, node].item() == pytest.approx(0.5)
    assert task.taught(coarse).values[0, node].item() == pytest.approx(1)
    assert task.taught(coarse).values[0, task.names.index("core")].item() == pytest.approx(1)
    fine = task.encode(draw(task)[1])  # of one kind each
    assert torch.equal(task.taught(fine).values * (task.known(fine) > 0), fine.values)

    def dice(enhancing):
        logits = torch.zeros(1, task.channels, 1, 1)
        for name in ("tumour", "core"):
            logits[:, task.names.index(name)] = 20
        logits[:, node] = enhancing
        return task._loss_at(logits, coarse)["dice"].item()

    assert dice(20.0) < dice(0.0) < dice(-20.0)


def test_an_unknown_part_is_learnt_from_the_cases_that_tell_it():
    task = a_task()
    logits = torch.zeros(2, task.channels, 4, 4, requires_grad=True)
    labels = torch.full((2, 4, 4), CLASSES["tumour"], dtype=torch.uint8)
    labels[1] = CLASSES["necrotic"]
    optimiser = torch.optim.Adam([logits], lr=0.3)
    for _ in range(40):
        optimiser.zero_grad()
        sum(task.loss(logits, task.encode(labels)).values()).backward()
        optimiser.step()
    p = task.probabilities(logits.detach())
    assert (p[:, task.names.index("tumour")] > 0.9).all()
    assert (p[1, task.names.index("necrotic")] > 0.9).all()
    torch.testing.assert_close(p[0, task.names.index("core")], p[0, task.names.index("oedema")])


def test_the_finest_class_is_written_and_confidence_is_that_of_leaves():
    task = a_task()
    logits, _ = draw(task)
    p = task.probabilities(logits)[:, task.leaves]
    best = [task.names[task.leaves[k]] for k in p.argmax(1).flatten().tolist()]
    assert task.decode(logits).flatten().tolist() == [CLASSES.get(name, 0) for name in best]
    assert torch.equal(task.pseudo_label(logits, 0.4).weight[:, 0] > 0, p.amax(1) >= 0.4)
    hard = task.harden(task.pseudo_label(logits))
    assert torch.equal(hard.values, task.encode(task.decode(logits)).values)
    even = torch.zeros(1, len(task.names), 1)
    even[:, task.leaves] = 1 / len(task.leaves)
    assert float(task.entropy(even)) == pytest.approx(1)


def test_a_score_leaves_out_what_the_label_leaves_open():
    task = a_task()
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[0, 0], labels[0, 1] = CLASSES["core"], CLASSES["oedema"]
    predicted = labels.clone()
    predicted[0, 0] = CLASSES["necrotic"]
    scores = dict(
        zip([task.names[leaf] for leaf in task.leaves[1:]], task.score(predicted, labels).tolist(), strict=True)
    )
    assert scores.pop("oedema") == 1
    assert all(math.isnan(score) for score in scores.values())
