"""Every method teaches the student alone, is the baseline without its unlabelled loss, and costs what it costs."""

import copy
import math

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from foveate.batches.sampler import Batch, Sampler
from foveate.cohort.split import Split
from foveate.config import AugmentConfig, MethodConfig, NetworkConfig, OptimiserConfig
from foveate.engine.loop import train_loop
from foveate.engine.schedule import Schedule
from foveate.methods import METHODS, Supervised
from foveate.methods.method import ENOUGH
from foveate.networks import build_network
from foveate.networks.unet import Decoder
from foveate.tasks import build_task
from toys import pseudo_labels, tiny_plan, toy_cohort

# Methods whose student sees every image of a batch once and with gradient, as the baseline's does.
AS_THE_BASELINE = [
    "supervised",
    "copy_paste",
    "cross_consistency",
    "entropy_minimisation",
    "interpolation_consistency",
    "mean_teacher",
    "self_training",
    "temporal_ensembling",
    "uncertainty_mean_teacher",
]
# Methods that make random choices of their own.
DRAWING = [
    "copy_paste",
    "cross_consistency",
    "deep_belief",
    "interpolation_consistency",
    "uncertainty_mean_teacher",
    "unimatch",
]
every_method = pytest.mark.parametrize("name", METHODS)
labelled_method = pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.learns_labels])
# Pre-training learns no label, so it is no baseline at any weight: it has tests of its own.
unlabelled_method = pytest.mark.parametrize(
    "name", [n for n, m in METHODS.items() if m.uses_unlabelled and m.learns_labels]
)
RAMPED = 0.9  # progress at which every ramp is over
PLAN = tiny_plan(2, widths=(4, 4, 6, 8), strides=((1, 1), *[(2, 2)] * 3))  # four stages: answers at two resolutions


def build(name, plan=PLAN, network=None, decay=0.9, **settings):
    task = build_task(plan)
    torch.manual_seed(0)

    def another(architecture="unet"):
        return build_network(NetworkConfig(name=architecture), plan, task.channels)

    return METHODS[name](network or another(), task, MethodConfig(name=name, **settings), decay, another)


def decided(method, factor=5.0):
    """The same method, all its logits larger: an untrained network is sure of nothing, and would teach nothing."""
    with torch.no_grad():
        for decoder in method.modules():
            if isinstance(decoder, Decoder):
                for parameter in decoder.heads.parameters():
                    parameter.mul_(factor)
    return method


def a_batch(method, plan=None, labelled=2, unlabelled=2, seed=0):
    plan = plan or tiny_plan(2)
    random = torch.Generator().manual_seed(seed)
    images, weak = (torch.randn(n, 1, *plan.patch, generator=random) for n in (labelled, unlabelled))
    labels = torch.randint(0, 3, (labelled, *plan.patch), generator=random).to(torch.uint8)
    strong = [weak + torch.randn(weak.shape, generator=random) for _ in range(method.strong_views)]
    pseudo = torch.randint(0, 3, (unlabelled, *plan.patch), generator=random).to(torch.uint8)
    batch = Batch(images, labels, weak, strong, seed=seed, pseudo=pseudo, boxes=pseudo, masks=pseudo)
    if method.memory:  # mean probabilities, all of them known
        values = torch.rand(unlabelled, method.task.channels, *plan.patch, generator=random)
        batch.pseudo = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    return batch


def gradients(method, batch, progress=RAMPED):
    method.zero_grad(set_to_none=True)
    for _, losses in method.turns(batch, progress):
        sum(losses.values()).backward()
    return torch.cat([p.grad.flatten() for p in method.network.parameters() if p.grad is not None])


def inputs_of(module):
    """A list that grows by the first input of every call of ``module``."""
    seen = []
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    return seen


def trained(method, folder, plan, steps=6, unlabelled=3):
    """Train for some steps; returns, per step: cases, number of images the student saw, losses."""
    cohort = toy_cohort(folder, plan, unlabelled=unlabelled)
    split = Split(tuple(cohort.labelled), (), tuple(cohort.unlabelled))
    sampler = Sampler(cohort, plan, AugmentConfig(), split, 0, torch.device("cpu"))
    seen, cases, losses = inputs_of(method.network.encoder[0]), [], []
    whole = sampler.batch
    sampler.batch = lambda *args: cases.append((batch := whole(*args)).cases) or batch
    optimisers = {key: torch.optim.AdamW(player.parameters()) for key, player in method.players().items()}
    fabric = Fabric(accelerator="cpu", devices=1)
    schedule = Schedule(steps, None)
    before = pseudo_labels(folder, method, sampler, schedule)
    train_loop(fabric, method, optimisers, sampler, schedule, OptimiserConfig(), losses.append, before)
    return cases, [len(x) for x in seen], losses


def of_the_baseline(losses, expected):
    """Those losses of every step that the baseline has too; a second player has others of its own."""
    return [{name: step[name] for name in known} for step, known in zip(losses, expected, strict=False)]


@every_method
def test_no_gradient_reaches_the_averaged_weights(name):
    method = decided(build(name))
    method.average.requires_grad_(True)  # nothing but the method itself holds gradients back now
    assert (gradients(method, a_batch(method)) != 0).any()
    assert all(parameter.grad is None for parameter in method.average.parameters())


@unlabelled_method
def test_confidence_changes_what_a_method_learns_where_it_says_so(name):
    if METHODS[name].labellings:  # the labels are made before the step, by the method's sureness
        assert "confidence" in METHODS[name].options
        return
    low, high = (gradients(m := decided(build(name, confidence=c)), a_batch(m)) for c in (0.0, 0.999))
    assert torch.equal(low, high) == ("confidence" not in METHODS[name].options)


@labelled_method
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "classes", [{"front": 1, "back": 2}, {"whole": (1, 2), "core": (2,)}], ids=["classes", "regions"]
)
@pytest.mark.parametrize("unlabelled", [1, 2])
def test_all_of_every_player_learns_from_classes_and_regions_in_2d_and_3d(name, dims, classes, unlabelled):
    strides = ((1,) * dims, *[(2,) * dims] * 3)
    plan = tiny_plan(dims, classes=classes, widths=(4, 4, 6, 8), strides=strides)
    method = build(name, plan)
    for player, losses in method.turns(a_batch(method, plan, unlabelled=unlabelled), RAMPED):
        module = method.players()[player]
        module.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        assert all(value.isfinite() for value in losses.values())
        assert all((p.grad != 0).any() for p in module.parameters())


@every_method
def test_only_the_student_is_a_player(name):
    method = build(name)
    trained_here = {id(p) for player in method.players().values() for p in player.parameters()}
    assert trained_here >= {id(p) for p in method.network.parameters()}
    assert not trained_here & {id(p) for p in method.average.parameters()}
    assert not any(parameter.requires_grad for parameter in method.average.parameters())


@every_method
@pytest.mark.parametrize("decay", [0.15, 0.99])
def test_the_average_is_its_closed_form_over_parameters_and_buffers(name, decay):
    """a_n = sum over s of (1 - d_s) prod_{k > s} d_k v_s, and prod_k d_k of the start."""
    network = build_network(NetworkConfig(), PLAN, 3)
    network.norm = nn.BatchNorm2d(3)
    method = build(name, network=network, decay=decay)
    values = [copy.deepcopy(method.average.state_dict())]
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(6)]
    for step in range(6):
        for tensor in method.network.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else torch.tensor(step + 1))
        values.append(copy.deepcopy(method.network.state_dict()))
        method.after_step(step)
    shares = [math.prod(decays)] + [(1 - d) * math.prod(decays[step + 1 :]) for step, d in enumerate(decays)]
    assert sum(shares) == pytest.approx(1)
    found = method.average.state_dict()
    assert int(found.pop("norm.num_batches_tracked")) == 6
    assert {"norm.running_mean", "norm.running_var"} <= set(found)
    for key, tensor in found.items():
        expected = sum(share * value[key] for share, value in zip(shares, values, strict=True))
        torch.testing.assert_close(tensor, expected)


@every_method
def test_the_checkpoint_holds_the_averaged_weights(name):
    method, other = build(name), build(name)
    for tensor in method.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape))
    other.load_state_dict(method.state_dict())
    for key, tensor in method.average.state_dict().items():
        assert torch.equal(other.average.state_dict()[key], tensor)


@unlabelled_method
def test_without_the_unlabelled_loss_a_method_is_the_baseline_bit_for_bit(name, tmp_path):
    plan = tiny_plan(2)
    baseline, method = build("supervised"), build(name, start=0.0, unlabelled_weight=0.0)
    expected = trained(baseline, tmp_path, plan)
    cases, images, losses = trained(method, tmp_path, plan)
    assert (cases, images) == expected[:2]
    assert of_the_baseline(losses, expected[2]) == expected[2]
    assert all(case[0] == "L" for cases in expected[0] for case in cases)
    for key, tensor in baseline.state_dict().items():
        assert torch.equal(method.state_dict()[key], tensor), key


@unlabelled_method
def test_until_the_start_a_method_is_the_baseline_bit_for_bit_and_then_no_more(name, tmp_path):
    plan = tiny_plan(2)
    expected = trained(build("supervised"), tmp_path, plan)
    cases, _, losses = trained(build(name, start=0.5, ramp=0.0), tmp_path, plan)
    assert cases[:3] == expected[0][:3]
    assert of_the_baseline(losses[:3], expected[2]) == expected[2][:3]
    assert all([case[0] for case in names] == ["L", "L", "U", "U"] for names in cases[3:])


@pytest.mark.parametrize("name", AS_THE_BASELINE)
@pytest.mark.parametrize("batch", [2, 3, 4, 5])
@pytest.mark.parametrize("unlabelled", [0, 3])
def test_a_step_sends_as_many_images_through_the_student_as_one_of_the_baseline(name, batch, unlabelled, tmp_path):
    plan = tiny_plan(2, patch=(8, 8), batch=batch)
    _, images, _ = trained(build(name, plan, start=0.5), tmp_path, plan, steps=4, unlabelled=unlabelled)
    assert images == [batch] * 4


@labelled_method
def test_mixed_precision_keeps_no_parameter_of_a_player_from_its_gradient(name):
    method = decided(build(name))
    batch = a_batch(method)
    turns = method.turns(batch, RAMPED)
    while True:
        with torch.autocast("cpu", torch.bfloat16):
            turn = next(turns, None)
        if turn is None:
            break
        player, losses = turn
        module = method.players()[player]
        module.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        for key, parameter in module.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


@every_method
def test_a_replayed_step_draws_the_same_and_leaves_the_global_generator_alone(name):
    method = decided(build(name))
    batch, other = a_batch(method), a_batch(method)
    other.seed = 7
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = gradients(method, batch)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(gradients(method, batch), first)
    if name in DRAWING:
        assert not torch.equal(gradients(method, other), first)


@unlabelled_method
def test_unlabelled_images_change_what_the_student_learns(name):
    method = decided(build(name))
    batch, other = a_batch(method), a_batch(method)
    other.weak = other.weak.flip(-1)
    other.strong = [view.flip(-1) for view in other.strong]
    assert not torch.allclose(gradients(method, batch), gradients(method, other), rtol=1e-3, atol=1e-5)


@unlabelled_method
def test_the_ramp_is_in_the_loss(name):
    method = decided(build(name, start=0.2, ramp=0.4, unlabelled_weight=2.0))
    assert [method.weight(progress) for progress in (0.0, 0.19)] == [0, 0]
    assert method.weight(0.2) == pytest.approx(2 * math.exp(-5))
    assert method.weight(0.4) == pytest.approx(2 * math.exp(-1.25))
    assert method.weight(0.6) == method.weight(1.0) == 2.0
    batch = a_batch(method)
    early, middle, late = (gradients(method, batch, progress) for progress in (0.2, 0.4, 0.6))
    assert (late - early).norm() > (late - middle).norm() > 0.005 * late.norm()
    assert torch.equal(late, gradients(method, batch, 1.0))


def test_squared_differences_weigh_what_they_do_in_their_papers():
    weights = {
        name: build(name).weight(1.0) for name in ("mean_teacher", "interpolation_consistency", "cross_consistency")
    }
    assert weights == {"mean_teacher": 1, "interpolation_consistency": 100, "cross_consistency": 30}
    assert build("cross_consistency", unlabelled_weight=2.0).weight(1.0) == 2


def test_the_baseline_never_asks_for_unlabelled_images():
    method = build("supervised", start=0.0, ramp=0.0)
    assert isinstance(method, Supervised)
    assert method.shares(5, 1.0) == (5, 0)


def test_unlabelled_images_take_the_share_that_is_asked_for_once_they_teach():
    shares = {asked: build("fixmatch", start=0.2, unlabelled_share=asked) for asked in (None, 0.25, 0.75, 0.99)}
    assert {asked: method.shares(8, 1.0) for asked, method in shares.items()} == {
        None: (4, 4),
        0.25: (6, 2),
        0.75: (2, 6),
        0.99: (1, 7),
    }
    assert {method.shares(8, 0.1) for method in shares.values()} == {(8, 0)}
    assert shares[0.25].shares(2, 1.0) == (1, 1)


def test_no_unlabelled_image_is_left_without_a_partner_to_paste_into():
    for asked in (0.25, 0.75):
        method = build("copy_paste", start=0.0, ramp=0.0, unlabelled_share=asked)
        for batch in (2, 5, 8):
            labelled, unlabelled = method.shares(batch, 1.0)
            assert labelled + unlabelled == batch
            assert unlabelled <= labelled


def test_a_handful_of_unlabelled_images_is_not_shown_more_often_than_labelled_ones():
    method = build("mean_teacher", start=0.0, ramp=0.0)
    assert [method.shares(8, 1.0, pool) for pool in (0.9, 0.5, 0.3, 0.01)] == [(4, 4), (4, 4), (6, 2), (7, 1)]


def test_unlabelled_images_wait_until_the_labelled_ones_have_been_shown_often():
    method = build("mean_teacher")
    method.views = 4 * ENOUGH
    assert [method.weight(progress) > 0 for progress in (0.2, 0.24, 0.25)] == [False, False, True]
    method.views = 1000 * ENOUGH
    assert method.begins == method.start == 0.2
    method.views = 0.5 * ENOUGH
    assert method.weight(1.0) == 0
    assert method.shares(8, 1.0) == (8, 0)
    asked, pretraining = build("mean_teacher", start=0.3), build("masked_autoencoder")
    for other in (asked, pretraining):
        other.views = 1.0
    assert (asked.begins, pretraining.begins) == (0.3, pretraining.start)


def test_the_ramp_without_length_is_a_step():
    method = build("mean_teacher", start=0.3, ramp=0.0)
    assert (method.weight(0.29), method.weight(0.3)) == (0.0, 1.0)


# --- mean teacher


def test_mean_teacher_labels_weak_views_and_teaches_strong_ones():
    method = build("mean_teacher", unlabelled_weight=0.7)
    with torch.no_grad():
        for parameter in method.average.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    batch = a_batch(method, labelled=3)
    student, teacher = inputs_of(method.network), inputs_of(method.average)
    (_, losses), *rest = method.turns(batch, RAMPED)
    assert not rest
    assert torch.equal(torch.cat(student), torch.cat([batch.images, batch.strong[0]]))
    assert torch.equal(torch.cat(teacher), batch.weak)

    task = method.task
    labelled = task.loss(method.network(batch.images), task.encode(batch.labels))
    pseudo = task.pseudo_label(method.average(batch.weak))
    unlabelled = task.loss(method.network(batch.strong[0]), pseudo)
    expected = labelled | {f"unlabelled {key}": 0.7 * value for key, value in unlabelled.items()}
    assert losses.keys() == expected.keys()
    for key, value in losses.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=0)


# --- copy-paste


class Sees(nn.Module):
    """Logits that follow from the grey value of each voxel alone: class 1 where it is below -1.5, else class 2."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        below = (x < -1.5).float()
        return self.scale * torch.cat([torch.zeros_like(x), 2 * below, 2 * (1 - below)], dim=1)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("labelled", [2, 3])
def test_copy_paste_routes_image_and_target_of_every_voxel_from_the_same_scan(dims, labelled, monkeypatch):
    plan = tiny_plan(dims, patch=(9, 12, 6)[:dims])
    method = build("copy_paste", plan, Sees(), unlabelled_weight=0.6)
    batch = a_batch(method, plan, labelled, 2)
    for i in range(labelled):
        batch.images[i] = 1.0 + i
    for i in range(2):
        batch.weak[i] = -1.0 - i  # the teacher says class 2 of the first, class 1 of the second
    known = method.task.encode(batch.labels)
    seen, answers = inputs_of(method.network), []
    loss = method.task.loss
    monkeypatch.setattr(method.task, "loss", lambda out, target: answers.append(target) or loss(out, target))
    list(method.turns(batch, RAMPED))
    (mixed,), (answer,) = seen, answers
    assert len(mixed) == labelled + 2
    pseudo = torch.softmax(torch.tensor([[0.0, 0.0, 2.0], [0.0, 2.0, 0.0]]), dim=1)
    # Each image in two mixtures, with another partner in each.
    partners = [(0, 0), (1, 1), (1, 0), (0, 1), *[(i, i) for i in range(2, labelled)]]
    for row, (source, unlabelled) in enumerate(partners):
        for place in torch.ones(plan.patch).nonzero().tolist():
            value = float(mixed[(row, 0, *place)])
            target, weight = answer.values[(row, slice(None), *place)], float(answer.weight[(row, 0, *place)])
            if value > 0:
                assert value == 1 + source
                assert torch.equal(target, known.values[(source, slice(None), *place)])
                assert weight == 1
            else:
                assert value == -1 - unlabelled
                torch.testing.assert_close(target, pseudo[unlabelled])
                assert weight == pytest.approx(0.6)
    from_labelled = mixed[:, 0] > 0
    assert torch.equal(from_labelled[:2], ~from_labelled[2:4])  # what one mixture takes, the other leaves
    assert from_labelled[4:].all()
    inside = math.prod(int(n * 2 / 3) for n in plan.patch)
    assert from_labelled[:2].flatten(1).sum(1).tolist() == [inside] * 2
    for box in from_labelled[:2]:  # one solid box
        places = box.nonzero()
        assert (places.amax(0) - places.amin(0) + 1).prod() == inside


def test_boxes_follow_from_the_batch_and_reach_every_border():
    method = build("copy_paste", network=Sees())
    reached = torch.zeros(16, 16)
    for seed in range(40):
        batch = a_batch(method, seed=seed)
        batch.images[:], batch.weak[:] = 1.0, -1.0
        seen = inputs_of(method.network)
        list(method.turns(batch, RAMPED))
        list(method.turns(batch, RAMPED))
        assert torch.equal(seen[0], seen[1])
        method.network._forward_pre_hooks.clear()
        reached += seen[0][0, 0] > 0
    assert all((reached > 0).any(axis).all() for axis in (0, 1))
    assert reached[8, 8] == 40


def test_confidence_keeps_uncertain_voxels_out(monkeypatch):
    for name in ("mean_teacher", "copy_paste"):
        method = build(name, network=Sees(), confidence=0.9)  # Sees is sure to 0.79
        answers = []
        loss = method.task.loss
        monkeypatch.setattr(method.task, "loss", lambda out, target: answers.append(target) or loss(out, target))  # noqa: B023
        list(method.turns(a_batch(method), RAMPED))
        weights = torch.cat([answer.weight for answer in answers])
        assert set(weights.unique().tolist()) == {0.0, 1.0}, name
