"""Methods x tasks of whole images: what serves a task trains it, and without its unlabelled loss it is the baseline."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from foveate.batches.cache import PreparedCohort
from foveate.batches.sampler import Sampler
from foveate.cohort.split import Split
from foveate.config import AugmentConfig, MethodConfig, NetworkConfig, OptimiserConfig
from foveate.engine.labelling import Labelling
from foveate.engine.loop import train_loop
from foveate.engine.schedule import Schedule
from foveate.methods import METHODS
from foveate.networks import build_network
from foveate.predict.whole import WholePredictor
from foveate.tasks import build_task
from toys import prepared_case, tiny_plan

TASKS = {
    "classes": {"task": "classification", "classes": {"a": 0, "b": 1}},
    "several": {"task": "classification", "classes": {"a": 0, "b": 1}, "exclusive": False},
    "number": {"task": "regression", "classes": {}},
}
SERVED = [
    (task, name)
    for task, plan in TASKS.items()
    for name, method in METHODS.items()
    if plan["task"] in method.tasks and method.learns_labels
]
served = pytest.mark.parametrize(("task", "name"), SERVED)


def plan_of(task, dims=2):
    return tiny_plan(dims, whole=True, **TASKS[task])


def build(name, plan, **settings):
    task = build_task(plan)
    torch.manual_seed(0)

    def another():
        return build_network(NetworkConfig(name="classifier"), plan, task.channels)

    return METHODS[name](another(), task, MethodConfig(name=name, start=0.0, ramp=0.0, **settings), 0.9, another)


def cohort_of(folder, plan):
    """Four labelled and three unlabelled images, a bright ball or none."""
    random, width = np.random.default_rng(0), len(plan.classes) or 1
    cases = {}
    for i in range(7):
        image = random.normal(i % 2, 0.3, (1, *plan.patch))
        case = prepared_case(folder, f"c{i}", image, None)
        target = np.roll(np.eye(1, width, dtype=np.float32)[0], i % 2) if width > 1 else np.float32([i % 2])
        cases[case.id] = replace(case, target=target) if i < 4 else case
    return PreparedCohort(cases)


def trained(method, folder, plan, steps=3):
    """Losses of every step, and whether the network changed."""
    cohort = cohort_of(folder, plan)
    split = Split(tuple(cohort.labelled), (), tuple(cohort.unlabelled))
    sampler = Sampler(cohort, plan, AugmentConfig(), split, 0, torch.device("cpu"))
    schedule, losses = Schedule(steps, None), []
    predictor = WholePredictor(method.average, method.task, plan)
    labelling = Labelling(folder / "pseudo", predictor, cohort, sampler, method, schedule)
    optimisers = {key: torch.optim.AdamW(player.parameters()) for key, player in method.players().items()}

    def before():
        if labelling.due:
            labelling.make(lambda *_: None)

    fabric = Fabric(accelerator="cpu", devices=1)
    train_loop(fabric, method, optimisers, sampler, schedule, OptimiserConfig(), losses.append, before)
    return losses


def test_the_mean_teacher_sees_more_unlabelled_images_when_it_learns_classes():
    found = {task: build("mean_teacher", plan_of(task)).shares(16, 1.0) for task in TASKS}
    assert found == {"classes": (4, 12), "several": (4, 12), "number": (8, 8)}
    assert build("mean_teacher", plan_of("classes"), unlabelled_share=0.5).shares(16, 1.0) == (8, 8)


@served
def test_a_served_task_trains(task, name, tmp_path):
    plan = plan_of(task)
    method = build(name, plan)
    before = {key: value.clone() for key, value in method.network.state_dict().items()}
    losses = trained(method, tmp_path, plan)
    assert all(np.isfinite(list(step.values())).all() for step in losses)
    assert any((value != before[key]).any() for key, value in method.network.state_dict().items())
    if METHODS[name].uses_unlabelled and name != "self_training":
        assert any(key.startswith("unlabelled") for key in losses[-1])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("task", TASKS)
def test_both_numbers_of_dimensions_train(task, dims, tmp_path):
    plan = plan_of(task, dims)
    assert len(trained(build("mean_teacher", plan), tmp_path, plan, steps=1)) == 1


@served
def test_weight_zero_is_the_baseline(task, name, tmp_path):
    plan = plan_of(task)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    baseline, method = build("supervised", plan), build(name, plan, unlabelled_weight=0.0)
    trained(baseline, tmp_path / "a", plan)
    trained(method, tmp_path / "b", plan)
    for key, value in baseline.network.state_dict().items():
        torch.testing.assert_close(method.network.state_dict()[key], value, rtol=0, atol=0)


def test_what_does_not_serve_a_task_says_why():
    for name, method in METHODS.items():
        assert "segmentation" in method.tasks
        if len(method.tasks) < 3:
            assert method.reason, name
