"""How far training has come, and the learning rate that belongs to it."""

from __future__ import annotations

import time
from collections.abc import Callable

from foveate.config import OptimiserConfig


class Schedule:
    """Progress from 0 to 1 under a bound in steps or in seconds.

    With a bound in steps, progress is step / steps, and a resumed run repeats an uninterrupted one exactly. With a
    bound in seconds, progress is the time spent over the time allowed: the machine's speed is measured by every step,
    so that the learning rate reaches zero at the bound even when the machine slows down half-way.

    steps, seconds: the bound, one of them. spent: seconds used before this process (preparation, an earlier part).
    now: the clock that seconds are read from, if not that of the wall.
    """

    def __init__(
        self, steps: int | None, seconds: float | None, spent: float = 0.0, now: Callable[[], float] | None = None
    ) -> None:
        self.now = now or time.monotonic
        self.steps, self.seconds = steps, seconds
        self.step = 0
        self.pace: float | None = None  # running mean of seconds per step
        self._start = self.now() - spent

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return self.now() - self._start

    @property
    def progress(self) -> float:
        if self.steps is not None:
            return min(self.step / self.steps, 1.0)
        assert self.seconds is not None
        return min(self.elapsed / self.seconds, 1.0)

    @property
    def foreseen(self) -> float:
        """Steps at the end if all are as those so far; exact under a bound in steps."""
        return self.steps or self.step / max(self.progress, 1e-9)

    @property
    def done(self) -> bool:
        """True when no further whole step fits."""
        if self.steps is not None:
            return self.step >= self.steps
        assert self.seconds is not None
        return self.elapsed + (self.pace or 0.0) > self.seconds

    @property
    def seconds_left(self) -> float:
        if self.seconds is not None:
            return max(self.seconds - self.elapsed, 0.0)
        assert self.steps is not None
        return (self.steps - self.step) * (self.pace or 0.0)

    @property
    def total_steps(self) -> int:
        """Steps at the end; an estimate under a bound in seconds."""
        return self.steps or self.step + round(self.seconds_left / self.pace if self.pace else 0)

    def stepped(self, seconds: float) -> None:
        """Count one step that took ``seconds``."""
        self.step += 1
        self.pace = seconds if self.pace is None else 0.95 * self.pace + 0.05 * seconds

    def learning_rate(self, config: OptimiserConfig) -> float:
        """Linear warm-up over the first steps, then (1 - progress)^power."""
        warm = min((self.step + 1) / config.warmup_steps, 1.0) if config.warmup_steps else 1.0
        return config.learning_rate * warm * (1 - self.progress) ** config.power

    def state(self) -> dict[str, float]:
        return {"step": self.step, "elapsed": self.elapsed, "pace": self.pace or 0.0}

    def restore(self, state: dict[str, float]) -> None:
        self.step, self.pace = int(state["step"]), state["pace"] or None
        self._start = self.now() - state["elapsed"]
