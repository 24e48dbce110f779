"""Pre-training by a deep belief network: one layer at a time, by the gradient of contrastive divergence."""

import pytest
import torch
from test_methods import RAMPED, a_batch, build, trained

from foveate.batches.sampler import Batch
from foveate.methods.method import randomness
from toys import tiny_plan


def the_loss(method, batch, progress=0.0):
    ((player, losses),) = method.turns(batch, progress)
    assert player == "network"
    return next(iter(losses.items()))


def moved(method, batch, progress):
    """Names of the parameters of the player that have a gradient, and it is not zero."""
    player = method.players()["network"]
    player.zero_grad(set_to_none=True)
    the_loss(method, batch, progress)[1].backward()
    return {name for name, p in player.named_parameters() if p.grad is not None and (p.grad != 0).any()}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("persistent", [False, True])
def test_layers_are_trained_one_after_the_other(dims, persistent):
    plan = tiny_plan(dims, patch=(8, 12, 8)[:dims])
    method = build("deep_belief", plan, persistent=persistent, gibbs_steps=2)
    for progress, depth in ((0.0, 0), (0.33, 0), (0.34, 1), (0.67, 2), (1.0, 2)):
        found = moved(method, a_batch(method, plan, 1, 3), progress)
        assert found == {
            f"0.encoder.{depth}.0.body.0.weight",
            f"1.layers.{depth}.visible",
            f"1.layers.{depth}.hidden",
        }


def test_the_gradient_is_the_difference_of_the_statistics_of_data_and_samples():
    """Of binary units: dF/dc = -v and dF/db = -p(h | v), and of Gaussian ones dF/dc = c - v."""
    plan = tiny_plan(2)
    method = build("deep_belief", plan)
    batch = a_batch(method, plan)
    images = torch.cat([batch.images, batch.weak])
    for depth, progress in ((0, 0.0), (1, 0.4)):
        rbm, data = method.belief.layers[depth], method.below(images, depth)
        with torch.no_grad():
            rbm.visible.normal_()
            rbm.convolution.weight.normal_(std=0.2)
        model = rbm.gibbs(data, 1, randomness(batch))
        moved(method, batch, progress)
        count, axes = data[0].numel() * len(data), (0, 2, 3)
        torch.testing.assert_close(rbm.visible.grad, (model - data).sum(axes) / count, rtol=1e-4, atol=1e-6)
        hidden = (rbm.inputs(model).sigmoid() - rbm.inputs(data).sigmoid()).detach()
        torch.testing.assert_close(rbm.hidden.grad, hidden.sum(axes) / count, rtol=1e-4, atol=1e-6)


def test_mixed_precision_keeps_no_parameter_from_its_gradient():
    method = build("deep_belief")
    batch = a_batch(method)
    for depth in range(4):
        with torch.autocast("cpu", torch.bfloat16):
            _, loss = the_loss(method, batch, (depth + 0.5) / 4)
        method.zero_grad(set_to_none=True)
        loss.backward()
        for p in (method.belief.layers[depth].convolution.weight, method.belief.layers[depth].hidden):
            assert (p.grad != 0).any()
            assert p.grad.isfinite().all()


def test_chains_go_on_where_the_last_step_left_them_and_are_in_the_checkpoint():
    method = build("deep_belief", persistent=True)
    batch = a_batch(method)
    before = method.chains_0.clone()
    the_loss(method, batch)
    expected = method.belief.layers[0].gibbs(before, 1, randomness(batch))
    assert torch.equal(method.chains_0, expected)
    assert not torch.equal(method.chains_0, before)
    assert torch.equal(method.state_dict()["chains_0"], expected)
    assert not any("chains" in key for key in build("deep_belief").state_dict())


def test_labels_do_not_matter_and_all_images_do():
    method = build("deep_belief")
    batch = a_batch(method)
    loss = the_loss(method, batch)[1]
    other = Batch(batch.images, 2 - batch.labels, batch.weak, seed=batch.seed)
    assert torch.equal(the_loss(method, other)[1], loss)
    for part in ("images", "weak"):
        changed = a_batch(method)
        setattr(changed, part, getattr(changed, part) * 2)
        assert not torch.isclose(the_loss(method, changed)[1], loss), part
    assert {method.shares(5, progress) for progress in (0.0, 0.5, 1.0)} == {(0, 5)}


def test_training_tells_scans_from_samples_of_the_machine(tmp_path):
    """Free energies of scans fall against those of noise with the same mean and variance in every voxel."""
    plan = tiny_plan(2, widths=(8,), strides=((1, 1),))
    method = build("deep_belief", plan)
    random = torch.Generator().manual_seed(0)
    cases, _, losses = trained(method, tmp_path, plan, steps=80)
    assert {case[0] for names in cases for case in names} == {"U"}
    assert {name for step in losses for name in step} == {"layer 1"}
    scans = torch.zeros(6, 1, 16, 16)
    for scan in scans:
        scan[0, 4:12, 4:12] = 2
    noise = scans.flatten(2)[..., torch.randperm(256, generator=random)].view_as(scans)
    with torch.no_grad():
        assert float(method.energy(scans, 0).mean()) < float(method.energy(noise, 0).mean()) - 0.05
        fresh = build("deep_belief", plan)
        assert abs(float(fresh.energy(scans, 0).mean()) - float(fresh.energy(noise, 0).mean())) < 0.05


def test_the_model_is_what_an_encoder_takes_over_and_the_biases():
    method = build("deep_belief")
    model, own = method.model(), method.average.state_dict()
    taken = {key for key in own if key.startswith("encoder.")}
    assert taken <= set(model)
    assert set(model) - taken == {f"belief.layers.{i}.{name}" for i in range(4) for name in ("visible", "hidden")}
    assert all(torch.equal(model[key], own[key]) for key in taken)
    assert torch.equal(own["encoder.0.0.body.3.weight"][2, 2], torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0.0]]))
    assert the_loss(method, a_batch(method), RAMPED)[0] == "layer 4"
