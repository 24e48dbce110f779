"""The one training loop. Every task, network and method runs through ``train_step``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from foveate.batches.sampler import Batch, Regions, Sampler
from foveate.config import OptimiserConfig
from foveate.engine.schedule import Schedule
from foveate.errors import FoveateError
from foveate.methods import Method

AHEAD = 2  # batches that are read ahead of the training step


def train_step(
    fabric: Fabric, method: Method, optimisers: dict[str, Optimizer], batch: Batch, schedule: Schedule, clip: float
) -> dict[str, Tensor]:
    """One step of every player that the method names; returns the detached losses by name.

    Autocast wraps the method's own computation only: backward and the optimisers run outside it.
    """
    logged: dict[str, Tensor] = {}
    turns = method.turns(batch, schedule.progress)
    while True:
        with fabric.autocast():
            turn = next(turns, None)
        if turn is None:
            break
        player, losses = turn
        optimiser = optimisers[player]
        optimiser.zero_grad(set_to_none=True)
        fabric.backward(torch.stack(list(losses.values())).sum())
        torch.nn.utils.clip_grad_norm_(method.players()[player].parameters(), clip)
        optimiser.step()
        logged |= {name: value.detach() for name, value in losses.items()}
    method.after_step(schedule.step)
    return logged


def train_loop(
    fabric: Fabric,
    method: Method,
    optimisers: dict[str, Optimizer],
    sampler: Sampler,
    schedule: Schedule,
    config: OptimiserConfig,
    after_step: Callable[[dict[str, float]], bool],
) -> None:
    """Train until the schedule is done or ``after_step(losses)`` returns True (a request to stop).

    Raises FoveateError when a loss is not finite, naming the step and the cases of its batch.
    """
    method.train()
    method.average.eval()
    started = time.monotonic()
    for batch in read_ahead(sampler, method, schedule):
        rate = schedule.learning_rate(config)
        for optimiser in optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = rate
        losses = {k: float(v) for k, v in train_step(fabric, method, optimisers, batch, schedule, config.clip).items()}
        if not all(math.isfinite(value) for value in losses.values()):
            raise FoveateError(
                f"step {schedule.step}: the loss is not finite ({losses}). Cases of this batch: "
                f"{', '.join(batch.cases)}. The last good checkpoint is kept. Look at these scans with "
                "`foveate check`, or lower optimiser.learning_rate (now "
                f"{config.learning_rate:g})."
            )
        schedule.stepped(time.monotonic() - started)
        if after_step(losses):
            return
        started = time.monotonic()


def read_ahead(sampler: Sampler, method: Method, schedule: Schedule) -> Iterator[Batch]:
    """Batches for the steps from ``schedule.step`` on, their regions read ahead by a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        waiting: dict[int, tuple[tuple[int, int], Future[tuple[Regions, Regions]]]] = {}
        while not schedule.done:
            shares = method.shares(sampler.plan.batch, schedule.progress)
            for step in range(schedule.step, schedule.step + AHEAD + 1):
                if step not in waiting:
                    waiting[step] = shares, pool.submit(sampler.read, step, *shares)
            asked, regions = waiting.pop(schedule.step)
            # What was read ahead was sized for the shares of then: the change-over step is read again.
            ready = regions.result() if asked == shares else sampler.read(schedule.step, *shares)
            yield sampler.batch(schedule.step, ready, method.strong_views)
