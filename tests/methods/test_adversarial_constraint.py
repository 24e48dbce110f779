"""The constraints are the equations', the critic sees no image, and boxes with masks of other scans are enough."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from foveate.batches.sampler import Batch
from foveate.config import MethodConfig, NetworkConfig
from foveate.methods.adversarial_constraint import (
    AdversarialConstraint,
    box_error,
    filled,
    outside_error,
    section_error,
    unpack,
)
from foveate.networks import build_network
from foveate.networks.critic import ShapeCritic, gradient_penalty
from foveate.tasks import build_task
from toys import tiny_plan


def build(plan, network=None, **settings):
    task = build_task(plan)
    torch.manual_seed(0)
    network = network or build_network(NetworkConfig(boxes=True), plan, task.channels)
    return AdversarialConstraint(network, task, MethodConfig(name="adversarial_constraint", **settings), 0.97)


def one_box(shape, low, high):
    region = torch.zeros(1, 1, *shape)
    region[(0, 0, *(slice(a, b) for a, b in zip(low, high, strict=True)))] = 1
    return region


def a_batch(plan, count=2, seed=0):
    """Images with a box of each class, the second class inside the first's, and random masks."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, *plan.patch, generator=random)
    boxes = torch.zeros(count, *plan.patch, dtype=torch.uint8)
    boxes[(slice(None), *[slice(3, 12)] * plan.dims)] |= 1
    boxes[(slice(None), *[slice(6, 10)] * plan.dims)] |= 2
    masks = torch.randint(0, 3, (count, *plan.patch), generator=random).to(torch.uint8)
    return Batch(x[:0], boxes[:0], x, [x + 1], seed=seed, boxes=boxes, masks=masks)


# --- the terms


@pytest.mark.parametrize(
    ("low", "high", "counted"),
    [
        ((1, 2), (4, 5), [0, 1]),
        ((0, 2), (4, 5), [0]),
        ((1, 2), (6, 5), [0]),
        ((0, 0), (6, 7), []),
        ((1, 2, 1), (4, 5, 3), [0, 1, 2]),
        ((1, 0, 1), (4, 5, 3), [1]),
        ((1, 0, 1), (4, 5, 5), []),
    ],
)
def test_sections_are_counted_one_by_one(low, high, counted):
    """Those across an axis count only where the patch cuts the box along no other."""
    shape = (6, 7, 5)[: len(low)]
    p = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1)) * 0.4
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    expected = []
    for axis in counted:
        for i in range(low[axis], high[axis]):
            section = p[(0, 0, *box[:axis], i, *box[axis + 1 :])]
            expected.append(max(0.0, 1 - float(section.sum())))
    found = section_error(p, one_box(shape, low, high))
    assert float(found) == pytest.approx(np.mean(expected) if expected else 0.0, abs=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_ball_costs_nothing_in_its_box_and_more_in_a_larger_one(dims):
    """A line through the corner of a box meets no ball: in 3D sections are planes."""
    offsets = torch.meshgrid(*[torch.arange(11) - 5.0] * dims, indexing="ij")
    ball = (sum(o**2 for o in offsets) <= 9).float()[None, None]
    box = filled(ball)
    assert box.sum() == 7**dims
    assert section_error(ball, box) == 0
    assert outside_error(ball, box) == 0
    assert section_error(ball * 0, box) == 1
    wider = one_box((11,) * dims, (1,) * dims, (8,) * dims)  # 7 wide: the ball ends one voxel later, at 8
    assert float(section_error(ball, wider)) == pytest.approx(1 / 7)


def test_what_lies_outside_is_summed_by_voxels_of_the_box():
    p = torch.rand(2, 2, 5, 6)
    regions = torch.cat([one_box((5, 6), (1, 1), (3, 5)), one_box((5, 6), (0, 0), (2, 2))], dim=1)
    regions = torch.cat([regions, torch.zeros_like(regions)])  # the second image shows neither
    total = sum(
        float((p[b, k] * (1 - regions[b, k])).sum()) / (float(regions[b, k].sum()) or 30)
        for b in (0, 1)
        for k in (0, 1)
    )
    assert float(outside_error(p, regions)) == pytest.approx(total / 4, rel=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_filled_boxes_are_the_smallest_and_the_drawn_ones_cover_them(dims):
    plan = tiny_plan(dims)
    masks = (torch.rand(3, 2, *plan.patch, generator=torch.Generator().manual_seed(0)) > 0.997).float()
    masks[0, 1] = 0
    found, finder = filled(masks), build(plan).network.boxes
    corners, shown = finder.around(masks)
    for b, k in itertools.product(range(3), range(2)):
        expected = torch.zeros(plan.patch)
        places = masks[b, k].nonzero()
        assert bool(shown[b, k]) == bool(len(places))
        if len(places):
            expected[tuple(slice(int(a), int(z) + 1) for a, z in zip(places.amin(0), places.amax(0), strict=True))] = 1
            for axis, n in enumerate(plan.patch):
                low, high = ((corners[b, k, :, axis] + 0.5) * n).tolist()
                assert (low, high) == pytest.approx((places[:, axis].min().item(), places[:, axis].max().item() + 1))
        assert torch.equal(found[b, k], expected)
    wide = one_box(plan.patch, (3,) * dims, (12,) * dims).expand(1, 2, *[-1] * dims)
    assert torch.equal((finder.draw(finder.around(wide)[0], plan.patch) > 0.4).float(), wide)


def test_boxes_may_overlap_and_the_error_of_one_that_is_not_there_is_its_size():
    assert unpack(torch.tensor([[0, 1, 2, 3, 5]], dtype=torch.uint8), 3)[0].tolist() == [
        [0, 1, 0, 1, 1],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    boxes = torch.tensor([[[[0.0, 0.1], [0.4, 0.3]]]])
    truth = torch.tensor([[[[0.1, 0.1], [0.4, 0.1]]]])
    assert float(box_error(boxes, truth, torch.tensor([[True]]))) == pytest.approx((0.1 + 0.2) / 4)
    assert float(box_error(boxes, truth, torch.tensor([[False]]))) == pytest.approx((0.4 + 0.2) / 2)


def test_the_penalty_of_a_linear_critic_is_its_closed_form():
    weight = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))

    def critic(x):
        return (x * weight[0]).flatten(1).sum(1)

    found = gradient_penalty(critic, torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5), torch.rand(2))
    torch.testing.assert_close(found, (weight[0].norm() * 20**0.5 - 1) ** 2)


@pytest.mark.parametrize("size", [(16, 16), (5, 7), (9, 8, 5)])
def test_the_critic_of_shapes_judges_every_map_by_itself_and_all_of_it_learns_by_the_penalty(size):
    torch.manual_seed(0)
    critic = ShapeCritic(3, len(size))
    maps = torch.rand(2, 3, *size)
    torch.testing.assert_close(critic(maps), torch.cat([critic(one[None]) for one in maps]))
    gradient_penalty(critic, maps, maps.flip(0), torch.tensor([0.2, 0.7])).backward()
    assert all((p.grad != 0).any() for name, p in critic.named_parameters() if name.endswith("weight"))


# --- who sees what


def test_the_critic_is_shown_answers_and_masks_with_their_boxes_and_nothing_else():
    plan = tiny_plan(2)
    method = build(plan)
    batch, seen = a_batch(plan), []
    method.critic.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    with torch.no_grad():
        logits = method.network(batch.strong[0])
    logits = logits[0] if isinstance(logits, list) else logits
    answer = torch.cat([logits.softmax(1), unpack(batch.boxes, 2)], dim=1)
    masks = method.task.encode(batch.masks).values
    masks = torch.cat([masks, filled(masks[:, 1:])], dim=1)
    for _ in method.turns(batch, 0.5):
        pass
    for maps in seen:
        between = [torch.allclose(maps[b], answer[b] + share * (masks[b] - answer[b]), atol=1e-5)
                   for b in range(2)
                   for share in [((maps[b] - answer[b]) * (masks[b] - answer[b])).sum() / (masks[b] - answer[b]).square().sum()]]  # fmt: skip  # noqa: E501
        assert all(between)
    assert len(seen) == 1 + 2 * 3


class Deaf(nn.Module):
    """Answers the same to every image."""

    def __init__(self, plan):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(3, *plan.patch, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return self.logits.expand(len(x), *self.logits.shape)


def test_no_image_reaches_the_critic():
    """With answers that do not depend on the image, nothing does: not one bit."""
    plan = tiny_plan(2)
    found = []
    for seed in (0, 1):
        method, batch = build(plan, Deaf(plan)), a_batch(plan)
        batch.strong = [torch.randn(batch.strong[0].shape, generator=torch.Generator().manual_seed(seed))]
        for _, losses in method.turns(batch, 0.5):
            sum(losses.values()).backward()
        found.append([p.grad for p in (*method.critic.parameters(), *method.network.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_labelled_images_teach_only_when_the_configuration_says_so():
    plan = tiny_plan(2)
    assert build(plan).shares(5, 0.9) == (0, 5)
    assert build(plan, paired_masks=True).shares(5, 0.9) == (2, 3)
    batch = a_batch(plan)
    batch.images, batch.labels = batch.weak + 3, batch.masks
    for paired in (False, True):
        method, seen = build(plan, paired_masks=paired), []
        method.network.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        _, losses = next(method.turns(batch, 0.9))
        assert ("dice" in losses) == paired
        assert len(seen) == paired


@pytest.mark.parametrize("term", ["sections", "outside", "shape", "box"])
def test_gradient_of_every_term_reaches_the_box_network(term):
    plan = tiny_plan(2)
    method = build(plan)
    batch = a_batch(plan)
    if term == "sections":  # an answer of next to nothing: sections lack it
        with torch.no_grad():
            method.network.decoder.heads[0].bias[0] += 3
    _, losses = next(method.turns(batch, 0.5))
    losses[term].backward()
    assert all((p.grad != 0).any() for p in method.network.boxes.parameters())


def test_a_turn_gives_its_own_player_gradient_and_no_other():
    plan = tiny_plan(3)
    method = build(plan)
    players = []
    for player, losses in method.turns(a_batch(plan), 0.5):
        players.append(player)
        method.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        other = "critic" if player == "network" else "network"
        assert any((p.grad != 0).any() for p in method.players()[player].parameters())
        assert all(p.grad is None for p in method.players()[other].parameters())
    assert players == ["network", "critic", "critic"]
    assert [player for player, _ in build(plan, critic_weight=0.0).turns(a_batch(plan), 0.5)] == ["network"]


# --- that it learns


SIDE = 24


def ellipses(count, random):
    """Tilted ellipses ``[count, *S]`` uint8, which fill about half of their boxes."""
    rows, columns = torch.meshgrid(*[torch.arange(SIDE) + 0.5] * 2, indexing="ij")
    centre = SIDE / 2 + (torch.rand(2, count, 1, 1, generator=random) - 0.5) * 8
    tilt, length = torch.rand(2, count, 1, 1, generator=random)
    tilt, length = torch.pi / 4 + 0.6 * (tilt - 0.5), 7 + 2 * length
    y, x = rows - centre[0], columns - centre[1]
    u, v = y * tilt.cos() + x * tilt.sin(), x * tilt.cos() - y * tilt.sin()
    return ((u / length) ** 2 + (v / (0.45 * length)) ** 2 < 1).to(torch.uint8)


def dice(a, b):
    a, b = a.bool().flatten(1), b.bool().flatten(1)
    return float((2 * (a & b).sum(1) / (a.sum(1) + b.sum(1))).mean())


def test_ellipses_from_boxes_and_masks_of_others_are_closer_than_their_filled_boxes():
    random = torch.Generator().manual_seed(0)
    plan = tiny_plan(2, patch=(SIDE, SIDE), classes={"ellipse": 1}, widths=(8, 12, 16))
    method = build(plan)
    shapes, others, scored = (ellipses(count, random) for count in (32, 32, 64))
    images, new = (
        1.5 * masks[:, None] + 0.5 * torch.randn(len(masks), 1, SIDE, SIDE, generator=random) - 0.3
        for masks in (shapes, scored)
    )
    boxes = filled(shapes[:, None].float())[:, 0].to(torch.uint8)
    optimisers = {name: torch.optim.AdamW(player.parameters(), 5e-3) for name, player in method.players().items()}
    for step in range(60):
        drawn, other = (torch.randperm(32, generator=random)[:8] for _ in range(2))
        x = images[drawn]
        batch = Batch(x[:0], boxes[:0], x, [x], seed=step, boxes=boxes[drawn], masks=others[other])
        for player, losses in method.turns(batch, step / 60):
            optimisers[player].zero_grad()
            sum(losses.values()).backward()
            optimisers[player].step()
        method.after_step(step)
    with torch.no_grad():
        answers, found = method.task.decode(method.average(new)), method.average.boxes(new)
    truth, _ = method.average.boxes.around(scored[:, None])
    assert (found - truth).abs().mean() * SIDE < 2  # voxels
    box = dice(filled(scored[:, None].float())[:, 0], scored)
    assert dice(answers, scored) > box + 0.08
