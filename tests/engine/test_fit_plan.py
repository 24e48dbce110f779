"""The plan shrinks until a step fits time and memory, and what is said to fit has been tried."""

import math
import time

import pytest
import torch
from lightning_fabric import Fabric

from foveate.batches.sampler import Sampler
from foveate.cohort.split import Split
from foveate.config import Config, NetworkConfig
from foveate.engine import fit_plan as module
from foveate.engine.fit_plan import STEP_SECONDS, explain_out_of_memory, fit_plan, measure_step, out_of_memory
from foveate.engine.train import late_step
from foveate.errors import FoveateError
from foveate.methods import METHODS
from toys import STILL, tiny_plan, toy_cohort


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)


def voxels(plan):
    return plan.batch * math.prod(plan.patch)


def pretend(monkeypatch, seconds_per_voxel=0.0, most=math.inf):
    """A machine that takes so long, and runs out of memory beyond ``most`` voxels; returns what was measured."""
    measured = []

    def step(fabric, plan, config):
        measured.append(plan)
        if voxels(plan) > most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return seconds_per_voxel * voxels(plan)

    monkeypatch.setattr(module, "measure_step", step)
    monkeypatch.setattr(
        module, "make_plan", lambda cohort, fingerprint, budget, mirror: tiny_plan(2, batch=budget.voxels // 256)
    )
    return measured


def test_a_fast_machine_keeps_the_largest_plan(monkeypatch, fabric):
    measured = pretend(monkeypatch, 1e-9)
    plan = fit_plan(fabric, None, None, Config())
    assert len(measured) == 1
    assert voxels(plan) == voxels(measured[0])


@pytest.mark.parametrize("slow", [2.0, 3.0])
def test_a_slow_machine_gets_a_plan_whose_step_it_takes_in_time(monkeypatch, fabric, slow):
    per_voxel = slow * STEP_SECONDS / module.CPU.voxels
    measured = pretend(monkeypatch, per_voxel)
    plan = fit_plan(fabric, None, None, Config())
    assert len(measured) <= 4
    assert 0.5 * STEP_SECONDS < per_voxel * voxels(plan) <= STEP_SECONDS
    assert plan.step_seconds == pytest.approx(per_voxel * voxels(plan), abs=1e-3)


def test_a_very_slow_machine_still_sees_a_quarter_of_the_voxels(monkeypatch, fabric):
    measured = pretend(monkeypatch, 10 * STEP_SECONDS / module.CPU.voxels)
    plan = fit_plan(fabric, None, None, Config())
    assert len(measured) == 2
    assert voxels(plan) == pytest.approx(module.CPU.voxels / 4, rel=0.01)


def test_little_memory_gets_a_plan_that_fits_in_it(monkeypatch, fabric):
    pretend(monkeypatch, most=module.CPU.voxels / 3)
    plan = fit_plan(fabric, None, None, Config())
    assert module.CPU.voxels / 8 < voxels(plan) <= module.CPU.voxels / 3


def test_other_errors_are_not_taken_for_little_memory(monkeypatch, fabric):
    pretend(monkeypatch)

    def broken(*_):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(module, "measure_step", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        fit_plan(fabric, None, None, Config())
    with pytest.raises(RuntimeError, match="shape mismatch"):
        explain_out_of_memory(fabric, tiny_plan(2), lambda plan: module.measure_step(fabric, plan, NetworkConfig()))


def test_what_is_recommended_was_tried_and_fits(monkeypatch, fabric):
    measured = pretend(monkeypatch, most=300)
    plan = tiny_plan(2, batch=12, patch=(32, 16))
    error = explain_out_of_memory(fabric, plan, lambda plan: module.measure_step(fabric, plan, NetworkConfig()))
    fitting = measured[-1]
    assert voxels(fitting) <= 300 < voxels(measured[-2])
    assert f"fits: batch {fitting.batch}, patch {list(fitting.patch)}" in str(error)
    assert not any(n % 4 for n in fitting.patch)  # the strides still divide it


def test_nothing_is_recommended_when_nothing_fits(monkeypatch, fabric):
    measured = pretend(monkeypatch, most=0)
    error = explain_out_of_memory(fabric, tiny_plan(2), lambda plan: module.measure_step(fabric, plan, NetworkConfig()))
    assert isinstance(error, FoveateError)
    assert measured[-1].patch == (4, 4)
    assert "and fits" not in str(error)
    assert "more memory" in str(error)


def test_measuring_takes_a_real_step_and_leaves_the_random_state_alone(fabric):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    started = time.monotonic()
    seconds = measure_step(fabric, tiny_plan(3, patch=(8, 8, 8)), NetworkConfig())
    assert 0 < seconds <= time.monotonic() - started
    assert torch.equal(torch.rand(3), expected)


def test_out_of_memory_is_known_by_its_words():
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert out_of_memory(MemoryError("Unable to allocate 3 GiB for an array"))
    assert not out_of_memory(RuntimeError("a shape is wrong"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


def test_the_step_that_is_tried_has_unlabelled_images_whatever_they_would_wait_for(tmp_path, monkeypatch, fabric):
    plan = tiny_plan(2)
    cohort = toy_cohort(tmp_path, plan)
    split = Split(tuple(cohort.labelled), (), tuple(cohort.unlabelled))
    seen = []
    kind = METHODS["mean_teacher"]
    losses = kind.losses
    monkeypatch.setattr(
        kind, "losses", lambda self, batch, weight: seen.append(len(batch.weak)) or losses(self, batch, weight)
    )
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    late_step(fabric, Config(), kind, Sampler(cohort, plan, STILL, split, 0, fabric.device), plan)
    assert seen == [2]
    assert torch.equal(torch.rand(3), expected)
