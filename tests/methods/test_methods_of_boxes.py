"""Methods on boxes: each that says it serves detection takes a step, and learns what its teacher found."""

import pytest
import torch
from torch import Tensor

from foveate.batches.boxes import PADDING
from foveate.batches.sampler import Batch
from foveate.config import MethodConfig, NetworkConfig
from foveate.methods import METHODS, Method
from foveate.networks import DEFAULTS, build_network
from foveate.tasks import Detection
from toys import tiny_plan

SERVING = [name for name, method in METHODS.items() if "detection" in method.tasks and method.learns_labels]


def build(name: str) -> tuple[Method, Detection]:
    strides = ((1, 1), (2, 2), (2, 2), (2, 2))
    shape = {"patch": (32, 32), "widths": (4, 6, 8, 8), "strides": strides}
    plan = tiny_plan(2, classes={"a": 0, "b": 1}, task="detection", **shape)
    task = Detection(plan)
    torch.manual_seed(0)

    def network(other: str = DEFAULTS["detection"]) -> torch.nn.Module:
        return build_network(NetworkConfig(name=other), plan, task.channels)

    return METHODS[name](network(), task, MethodConfig(name=name, start=0, ramp=0), 0.99, network), task


def batch(views: int) -> Batch:
    """Two labelled images, of which the second shows nothing, and two unlabelled ones."""
    images = torch.zeros(4, 1, 32, 32)
    images[0, :, 4:20, 6:20] = images[2, :, 8:24, 10:24] = 1
    labels = torch.full((2, 1, 5), float(PADDING))
    labels[0, 0] = torch.tensor([4.0, 6, 20, 20, 1])
    return Batch(images[:2], labels, images[2:], [images[2:] + 0.1] * views)


@pytest.mark.parametrize("name", SERVING)
def test_a_step_gives_finite_losses_and_gradients(name: str) -> None:
    method, _ = build(name)
    method.train()
    for player, losses in method.turns(batch(method.strong_views), 0.5):
        total: Tensor = torch.stack(list(losses.values())).sum()
        total.backward()
        gradients = [p.grad for p in method.players()[player].parameters() if p.grad is not None]
        assert total.isfinite()
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_methods_that_serve_are_those_that_the_docs_name() -> None:
    assert set(SERVING) == {"supervised", "mean_teacher", "fixmatch", "unimatch", "cross_pseudo"}


def test_the_task_says_from_which_score_a_box_teaches_unless_the_configuration_does() -> None:
    method, task = build("fixmatch")
    assert method.sureness == task.confidence == 0.4
    said = METHODS["fixmatch"](method.network, task, MethodConfig(name="fixmatch", confidence=0.7), 0.99)
    assert said.sureness == 0.7


def test_a_student_comes_to_find_what_its_teacher_finds() -> None:
    method, task = build("mean_teacher")
    target = task.encode(torch.tensor([[[8.0, 10, 24, 24, 1]]]))

    class Teacher(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            heats, distances, _ = task.parts(target.values)
            logits = torch.cat([torch.logit(heats.clamp(0.001, 0.9)), (distances / 16).log()], 1)
            return logits.expand(len(x), -1, -1, -1)

    method.average = Teacher()
    step = batch(1)
    step.labels = torch.full((2, 1, 5), float(PADDING))  # labels alone would teach that nothing is anywhere
    step.images = torch.zeros(2, 1, 32, 32)
    step.weak, step.strong = step.weak[:1], [step.strong[0][:1]]
    optimiser = torch.optim.AdamW(method.network.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        torch.stack(list(method.losses(step, 1.0).values())).sum().backward()
        optimiser.step()
    (found,) = task.decode(method.network(step.strong[0]).detach(), 0.5)
    assert found.classes.tolist() == [1]
    torch.testing.assert_close(found.boxes[0], torch.tensor([8.0, 10, 24, 24]), atol=2, rtol=0)
