"""The detector: shapes in 2D and 3D, its start, its slots, and that it learns."""

import pytest
import torch

from foveate.attention import AttentionGate
from foveate.config import AttentionSlots, NetworkConfig
from foveate.networks.detector import PRIOR, Detector
from foveate.tasks.detection import Detection
from toys import tiny_plan


def build(dims: int, config: NetworkConfig | None = None) -> tuple[Detector, Detection]:
    strides = ((1,) * dims, *[(2,) * dims] * 3)
    plan = tiny_plan(dims, patch=(32,) * dims, classes={"a": 0, "b": 1}, widths=(4, 6, 8, 8), strides=strides)
    task = Detection(plan)
    torch.manual_seed(0)
    return Detector(plan, task.channels, config or NetworkConfig()), task


@pytest.mark.parametrize("dims", [2, 3])
def test_it_answers_on_the_map_alike_in_training_and_after(dims: int) -> None:
    network, task = build(dims)
    x = torch.randn(2, network.image_channels, *(32,) * dims)
    logits = network(x)
    assert logits.shape == (2, task.channels, *task.size)
    torch.testing.assert_close(network.eval()(x), logits)
    assert logits[:, : task.kinds].sigmoid().mean().item() == pytest.approx(PRIOR, abs=0.05)


def test_attention_sits_in_its_slots() -> None:
    network, _ = build(2, NetworkConfig(attention=AttentionSlots(skip="gate", encoder="eca")))
    assert any(isinstance(module, AttentionGate) for module in network.decoder.modules())


@pytest.mark.parametrize("dims", [2, 3])
def test_it_learns_a_bright_block(dims: int) -> None:
    network, task = build(dims)
    box = torch.tensor([[[6.0] * dims + [20.0] * dims + [1]]])
    image = torch.zeros(1, network.image_channels, *(32,) * dims)
    image[(slice(None), slice(None), *[slice(6, 20)] * dims)] = 1
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    target = task.encode(box)
    for _ in range(40):
        optimiser.zero_grad()
        loss = torch.stack(list(task.loss(network(image), target).values())).sum()
        loss.backward()
        optimiser.step()
    (found,) = task.decode(network(image).detach(), 0.5)
    assert found.classes.tolist() == [1]
    torch.testing.assert_close(found.boxes[0], box[0, 0, :-1], atol=2, rtol=0)
