"""Fit the plan to the machine: measure a training step and shrink the plan until training moves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from lightning_fabric import Fabric

from foveate.cohort.cohort import Cohort
from foveate.cohort.fingerprint import Fingerprint
from foveate.cohort.plan import Plan
from foveate.cohort.planning import CPU, GPU, Budget, make_plan
from foveate.config import Config, NetworkConfig
from foveate.errors import FoveateError
from foveate.networks import build_network
from foveate.tasks import build_task

STEP_SECONDS = 0.6  # slowest step that is accepted on a CPU


def budget(fabric: Fabric) -> Budget:
    """What a device of this kind is taken to manage before anything is measured."""
    return CPU if fabric.device.type == "cpu" else GPU


def fit_plan(fabric: Fabric, cohort: Cohort, fingerprint: Fingerprint, settings: Config) -> Plan:
    """The largest plan that fits the device's memory and, on a CPU, whose step takes half a second or so.

    A slow processor gets fewer voxels a step, but at least a quarter of the usual: less of a scan teaches too little.
    """
    on_cpu = fabric.device.type == "cpu"
    tried = budget(fabric)
    least = CPU.voxels // 4
    fitting: Plan | None = None
    for _ in range(6):
        plan = make_plan(cohort, fingerprint, tried, settings.augment.mirror)
        try:
            seconds = measure_step(fabric, plan, settings.network)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            tried = tried.scaled(0.5)
            continue
        fitting = plan.model_copy(update={"step_seconds": round(seconds, 3)})
        if not on_cpu or seconds <= STEP_SECONDS or tried.voxels <= least:
            return fitting
        tried = tried.scaled(max(0.8 * STEP_SECONDS / seconds, least / tried.voxels))
    if fitting:
        return fitting
    raise FoveateError(
        f"no plan fits this device: a patch of {plan.patch} in batches of {plan.batch} still takes too much memory. "
        "Use a device with more memory, or write a plan.json with a smaller patch into the run folder."
    )


def measure_step(fabric: Fabric, plan: Plan, config: NetworkConfig) -> float:
    """Seconds of one forward and backward pass of the planned network: the fastest of three after one to warm up.

    On a CPU it is computed from the processor time of one thread, so that a busy machine is not taken for a slow one:
    threads that wait for each other would count as work. A thread more is taken to add 0.85 of itself.
    """
    task = build_task(plan)
    with torch.random.fork_rng(devices=[]):
        network = build_network(config, plan, task.channels).to(fabric.device)
        images = torch.randn(plan.batch, len(plan.channels), *plan.patch, device=fabric.device)
    target = task.encode(task.example(plan.batch, plan).to(fabric.device))
    on_cpu, threads = fabric.device.type == "cpu", torch.get_num_threads()
    clock = time.process_time if on_cpu else time.monotonic
    times = []
    try:
        torch.set_num_threads(1 if on_cpu else threads)
        for _ in range(4):
            started = clock()
            with fabric.autocast():
                loss = torch.stack(list(task.loss(network(images), target).values())).sum()
            loss.backward()
            float(loss.detach())  # waits for the device
            times.append(clock() - started)
    finally:
        torch.set_num_threads(threads)
    return min(times[1:]) / (1 + 0.85 * (threads - 1) if on_cpu else 1)


def explain_out_of_memory(fabric: Fabric, plan: Plan, step: Callable[[Plan], object]) -> FoveateError:
    """The error to raise when training ran out of memory: names a batch or patch that was tried and fits.

    step: takes one step of this training by another plan.
    """
    if fabric.device.type == "cuda":
        torch.cuda.empty_cache()
    advice = "Not even a batch of one smallest patch fits: use a device with more memory."
    tried, divisor = plan, [math.prod(axis) for axis in zip(*plan.strides, strict=True)]
    while tried.batch > 1 or any(n > d for n, d in zip(tried.patch, divisor, strict=True)):
        if tried.batch > 1:
            change: dict[str, object] = {"batch": tried.batch // 2}
        else:
            change = {"patch": tuple(max(n // 2 // d * d, d) for n, d in zip(tried.patch, divisor, strict=True))}
        tried = tried.model_copy(update=change)
        try:
            step(tried)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            continue
        advice = (
            f"Tried just now, and fits: batch {tried.batch}, patch {list(tried.patch)}. Put a plan.json with these "
            "values into a new run folder and train there."
        )
        break
    found = f"out of memory on {fabric.device} with plan.json batch {plan.batch} and patch {list(plan.patch)}"
    return FoveateError(f"{found}. {advice}")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is Python's or torch's way of saying that memory ran out, on a GPU or a CPU."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in text
        or "out of memory" in text
    )
