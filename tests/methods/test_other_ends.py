"""Every method trains a network that ends in a CRF or in a dense-upsampling head, and learns a label tree."""

import pytest
import torch
from test_methods import PLAN, RAMPED, a_batch

from foveate.config import MethodConfig, NetworkConfig
from foveate.methods import METHODS
from foveate.networks import build_network
from foveate.tasks import build_task


@pytest.mark.parametrize("end", [{"crf": True}, {"head": "dense_upsampling"}], ids=["crf", "dense"])
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"deep_belief"}))  # which trains a layer at a time, no decoder
def test_all_of_the_network_learns(name, end):
    task = build_task(PLAN)
    torch.manual_seed(0)

    def build(architecture="unet"):
        return build_network(NetworkConfig(name=architecture, **end), PLAN, task.channels)

    method = METHODS[name](build(), task, MethodConfig(name=name), 0.9, build)
    for _, losses in method.turns(a_batch(method, PLAN), RAMPED):
        sum(losses.values()).backward()
    method.after_step(0)
    still = {key for key, value in method.network.named_parameters() if value.grad is None or not value.grad.any()}
    assert all(key.startswith(("decoder.heads", "decoder.crf")) for key in still)
    assert bool(still) != method.learns_labels  # pre-training has a head of its own
    assert method.average(torch.randn(1, 1, *PLAN.patch)).shape == (1, 3, *PLAN.patch)


# Boxes are refused where there is a tree.
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.learns_boxes])
def test_a_label_tree_is_learnt_and_what_a_coarse_label_leaves_open_stays_open(name):
    tree = {"both": ("front", "back")}
    plan = PLAN.model_copy(update={"classes": {"front": 1, "back": 2, "both": 3}, "tree": tree})
    task = build_task(plan)
    torch.manual_seed(0)

    def build(architecture="unet"):
        return build_network(NetworkConfig(name=architecture, head="dense_upsampling"), plan, task.channels)

    method = METHODS[name](build(), task, MethodConfig(name=name), 0.9, build)
    batch = a_batch(method, plan)
    batch.labels[:] = 3
    for _, losses in method.turns(batch, 0.0 if method.learns_labels else RAMPED):  # labelled images alone
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
    for _, losses in method.turns(batch, RAMPED):
        assert all(loss.isfinite() for loss in losses.values())
    if method.learns_labels:
        head = method.network.decoder.heads[1].weight.grad[:, :, 0, 0]  # of background, both, front, back
        assert head[:2].any()
        assert not head[2:].any()
