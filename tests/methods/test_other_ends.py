"""Every method trains a network that ends in a CRF or in a dense-upsampling head."""

import pytest
import torch
from test_methods import PLAN, RAMPED, a_batch

from foveate.config import MethodConfig, NetworkConfig
from foveate.methods import METHODS
from foveate.networks import build_network
from foveate.tasks import build_task


@pytest.mark.parametrize("end", [{"crf": True}, {"head": "dense_upsampling"}], ids=["crf", "dense"])
@pytest.mark.parametrize("name", METHODS)
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
