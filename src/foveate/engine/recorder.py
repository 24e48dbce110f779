"""What happens between two steps: log lines, progress, validation, checkpoints, a request to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from foveate.config import Config, OptimiserConfig
from foveate.engine.labelling import Labelling
from foveate.engine.progress import TrainingProgress
from foveate.engine.run import RunFolder
from foveate.engine.schedule import Schedule
from foveate.engine.signals import StopSignals
from foveate.errors import FoveateError
from foveate.methods import Method

LOG_EVERY = 10  # steps
VALIDATIONS = 10  # evenly over training


def build_optimisers(method: Method, config: OptimiserConfig) -> dict[str, Optimizer]:
    """AdamW for every player; the loop sets the learning rate of each step."""
    rate, decay = config.learning_rate, config.weight_decay
    return {
        name: AdamW(player.parameters(), lr=rate, weight_decay=decay, fused=True)
        for name, player in method.players().items()
    }


class Recorder:
    """Called after every step with its losses. Holds the optimisers, because it saves and restores all that changes.

    labelling: makes pseudo-labels when the method wants some. validate: measures the held-back cases, such as the mean
    Dice, by name; None when there are none.
    """

    def __init__(
        self,
        folder: RunFolder,
        schedule: Schedule,
        method: Method,
        progress: TrainingProgress,
        stop: StopSignals,
        settings: Config,
        labelling: Labelling,
        validate: Callable[[], dict[str, float]] | None,
    ) -> None:
        self.folder, self.schedule, self.method = folder, schedule, method
        self.progress, self.stop, self.labelling, self.validate = progress, stop, labelling, validate
        self.checkpoint_seconds = settings.checkpoint_seconds
        self.optimisers = build_optimisers(method, settings.optimiser)
        self.saved_at = time.monotonic()
        self.validations = 0
        self.dice: float | None = None
        self.gap: float | None = None  # of the free energy
        self.losses: dict[str, float] = {}  # of the last step, once one was made here
        self.scores: dict[str, float] = {}  # of a task that has no Dice
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def __call__(self, losses: dict[str, float]) -> None:
        """Raises Stopped, with everything saved, when a signal has asked for it."""
        schedule = self.schedule
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.losses = losses
        self._show()
        if self.validate and schedule.progress * VALIDATIONS >= self.validations + 1:
            self._validate(int(schedule.progress * VALIDATIONS))
        if schedule.step % LOG_EVERY == 0:
            self.log()
        self._heed()
        if time.monotonic() - self.saved_at >= self.checkpoint_seconds:
            self.save()

    def _show(self) -> None:
        if not self.losses:
            return
        critic = [value for name, value in self.losses.items() if name in self.method.critic_losses]
        self.progress.update(
            self.schedule.step,
            total=self.schedule.total_steps,
            loss=self._learnt(self.losses),
            critic=sum(critic) if critic else None,
            lr=self.learning_rate,
            dice=self.dice,
            gap=self.gap,
            scores=self.scores,
            seconds_left=self.schedule.seconds_left,
        )

    def _learnt(self, losses: dict[str, float]) -> float:
        """What the network minimises; a critic's losses are another matter."""
        return sum(value for name, value in losses.items() if name not in self.method.critic_losses)

    def before_step(self) -> None:
        """Pseudo-labels, when they are due. Raises Stopped as a step does; the labels made so far are kept."""
        if not self.labelling.due:
            return

        def labelled(done: int, scans: int) -> None:
            self.progress.counting("scans labelled", done, scans)
            self._heed()

        started = time.monotonic()
        self.labelling.make(labelled)
        made = {"labelled": len(self.labelling.sampler.pseudo), "round": self.labelling.sampler.round}
        took = round(time.monotonic() - started, 2)
        # Before the coming step, so that a run that goes on from a checkpoint of this one does not write it twice.
        step, seconds = self.schedule.step + 1, round(self.schedule.elapsed, 2)
        self.folder.log({"step": step, "seconds": seconds, **made, "took": took})

    def _heed(self) -> None:
        if self.stop.requested:
            self.save()
            raise self.stop.stopped(self.schedule.step)

    @property
    def learning_rate(self) -> float:
        """Of the last step; the loop gives every player the same."""
        return float(next(iter(self.optimisers.values())).param_groups[0]["lr"])

    def log(self) -> None:
        """One line: the mean of every loss since the last one."""
        if not self.counts:
            return
        means = {name: self.sums[name] / self.counts[name] for name in self.sums}
        record = {
            "step": self.schedule.step,
            "seconds": round(self.schedule.elapsed, 2),
            "learning_rate": self.learning_rate,
            "loss": self._learnt(means),
            "losses": means,
        }
        self.folder.log(record)
        self.sums, self.counts = {}, {}

    def save(self) -> None:
        """Everything that the run needs to go on as if nothing had happened."""
        self.folder.save(self.schedule.step, self.state())
        self.saved_at = time.monotonic()

    def finish(self) -> None:
        """The last validation, log line and checkpoint. Raises FoveateError when there was no time for a step."""
        if not self.schedule.step:
            raise FoveateError(
                f"The time was over before the first step: checking and preparing the scans took "
                f"{self.schedule.elapsed:.0f} s. Train in another folder with more --minutes, or with --steps."
            )
        if self.validate and self.validations < VALIDATIONS:
            self._validate(VALIDATIONS)
        self._show()  # with the score of the end
        self.log()
        self.save()
        self.labelling.remove()

    def _validate(self, count: int) -> None:
        assert self.validate is not None
        self.validations, found = count, self.validate()
        self.dice, self.gap = found.get("dice"), found.get("free_energy_gap")
        self.scores = {} if self.dice is not None or self.gap is not None else found
        self.folder.log({"step": self.schedule.step, "seconds": round(self.schedule.elapsed, 2), **found})

    def state(self) -> dict[str, Any]:
        return {
            "schedule": self.schedule.state(),
            "method": dict(self.method.state_dict()),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "rng": torch.get_rng_state(),
            "round": self.labelling.sampler.round,
            "recorder": {
                "validations": self.validations,
                "dice": self.dice,
                "gap": self.gap,
                "scores": self.scores,
                "sums": self.sums,
                "counts": self.counts,
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.schedule.restore(state["schedule"])
        self.method.load_state_dict(state["method"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        torch.set_rng_state(state["rng"])
        self.labelling.use(state["round"])
        for name, value in state["recorder"].items():
            setattr(self, name, value)
