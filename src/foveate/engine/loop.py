"""The one training loop. Every task, network and method runs through ``train_step``."""

from __future__ import annotations

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

    Autocast wraps the method's own computation only: backward and the optimisers run outside it. Raises FoveateError
    naming the batch's cases, before any weight has changed, when a loss or gradient is not finite.
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
        logged |= {name: value.detach() for name, value in losses.items()}
        norm = torch.nn.utils.clip_grad_norm_(method.players()[player].parameters(), clip)
        if not (norm + sum(losses.values())).isfinite():
            shown = ", ".join(f"{name} {float(value):.3g}" for name, value in logged.items())
            raise FoveateError(
                f"step {schedule.step}: the loss or its gradient is not finite ({shown}; gradient norm {norm:.3g}). "
                f"Cases of this batch: {', '.join(batch.cases)}. The last good checkpoint is kept. Look at these scans "
                "with `foveate check`, or train in a new folder with a lower optimiser.learning_rate."
            )
        optimiser.step()
    method.after_step(schedule.step)
    return logged


def train_loop(
    fabric: Fabric,
    method: Method,
    optimisers: dict[str, Optimizer],
    sampler: Sampler,
    schedule: Schedule,
    config: OptimiserConfig,
    after_step: Callable[[dict[str, float]], object] = lambda losses: None,
    before_step: Callable[[], None] = lambda: None,
) -> None:
    """Train until the schedule is done, telling ``after_step`` the losses of every step.

    before_step: may change what the sampler draws from. Raises FoveateError as ``train_step`` does, and whatever the
    two callbacks raise, which is how training is stopped.
    """
    method.train()
    method.average.eval()
    started = schedule.now()
    for batch in read_ahead(sampler, method, schedule, before_step):
        rate = schedule.learning_rate(config)
        for optimiser in optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = rate
        losses = train_step(fabric, method, optimisers, batch, schedule, config.clip)
        schedule.stepped(schedule.now() - started)
        after_step({name: float(value) for name, value in losses.items()})
        started = schedule.now()


def read_ahead(
    sampler: Sampler, method: Method, schedule: Schedule, before_step: Callable[[], None] = lambda: None
) -> Iterator[Batch]:
    """Batches for the steps from ``schedule.step`` on, their regions read ahead by a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        waiting: dict[int, tuple[tuple[object, ...], Future[tuple[Regions, Regions]]]] = {}
        while not schedule.done:
            method.views = sampler.views(schedule.foreseen)  # decides when labelling starts
            before_step()
            size = sampler.plan.batch
            # Without unlabelled scans, or the pseudo-labels that they are to teach by, every image is a labelled one:
            # the clock may pass a method's start after before_step has looked, and the labels come a step later.
            teaches = sampler.pseudo if method.labellings else sampler.unlabelled
            shares = method.shares(size, schedule.progress, sampler.pool) if teaches else (size, 0)
            wanted = (*shares, sampler.round)
            for step in range(schedule.step, schedule.step + AHEAD + 1):
                if step not in waiting:
                    waiting[step] = wanted, pool.submit(sampler.read, step, *shares)
            asked, regions = waiting.pop(schedule.step)
            # What was read ahead was sized for the shares, and has the labels, of then: it is read again.
            ready = regions.result() if asked == wanted else sampler.read(schedule.step, *shares)
            yield sampler.batch(schedule.step, ready, method.strong_views)
