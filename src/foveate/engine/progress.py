"""Progress of training: a live bar in a terminal, one line per interval elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from foveate.terminal import Terminal

_WINDOW = 60.0  # seconds over which the speed is measured when the caller does not know the time left


class TrainingProgress:
    """Shows step, loss, learning rate, validation Dice and the time left.

    total_steps: 0 or an estimate will do; ``update(total=...)`` corrects it. interval: seconds between plain lines.
    """

    def __init__(
        self, total_steps: int = 0, quiet: bool = False, console: Console | None = None, interval: float = 30.0
    ) -> None:
        self.total = total_steps
        self.quiet = quiet
        self.console = console or Terminal()
        self.interval = interval
        self._bar: Progress | None = None
        self._dice: float | None = None
        self._scores: Mapping[str, float] = {}
        self._marks: deque[tuple[float, int]] = deque()
        self._last_line = float("-inf")
        self._last_text = ""
        self._text = ""

    def __enter__(self) -> TrainingProgress:
        if not self.quiet and self.console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
            self._bar = Progress(*columns, console=self.console, transient=False, refresh_per_second=4)
            self._task = self._bar.add_task("starting", total=self.total or None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif not self.quiet and self._text != self._last_text:
            self._line(self._text)

    def update(
        self,
        step: int,
        *,
        loss: float,
        lr: float,
        critic: float | None = None,
        dice: float | None = None,
        gap: float | None = None,
        scores: Mapping[str, float] | None = None,
        seconds_left: float | None = None,
        total: int | None = None,
    ) -> None:
        """Show the state after ``step``; a validation Dice stays in sight until the next one.

        loss: of the network. critic: loss of a critic, where one is trained. gap: of the free energy, where a deep
        belief network is trained. scores: of a task without Dice, by name.
        seconds_left: what the caller knows, as under a bound in minutes; None lets the measured speed tell.
        """
        if self.quiet:
            return
        self.total = self.total if total is None else total
        self._dice = self._dice if dice is None else dice
        left = self._measured(step) if seconds_left is None else seconds_left
        parts = [f"loss {loss:.4f}", *([f"critic's loss {critic:.4f}"] if critic is not None else []), f"lr {lr:.2e}"]
        parts += [f"Dice {self._dice:.3f}"] if self._dice is not None else []
        self._scores = scores or self._scores
        parts += [f"{name.replace('_', ' ')} {value:.3f}" for name, value in self._scores.items()]
        parts += [f"free-energy gap {gap:+.4f}"] if gap is not None else []
        parts += [f"{duration(left)} left"] if left is not None else []
        text = "  ".join(parts)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, total=max(self.total, step), description=text)
            return
        self._text = f"step {step}/{max(self.total, step)}  {text}"
        if time.monotonic() - self._last_line >= self.interval:
            self._line(self._text)

    def counting(self, what: str, done: int, cases: int) -> None:
        """Show how many of the cases are done, such as "scans prepared", between steps."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=cases, description=what)
        elif not self.quiet and (done == cases or time.monotonic() - self._last_line >= self.interval):
            self._line(f"{what}: {done}/{cases}")
            self._text = self._last_text
            self._last_line = self._last_line if done < cases else float("-inf")

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        if not self.quiet:
            (self._bar.console if self._bar else self.console).print(text, markup=False, highlight=False)

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._last_line, self._last_text = time.monotonic(), text

    def _measured(self, step: int) -> float | None:
        """Seconds left at the speed of the last minute; None until two steps have been seen."""
        now = time.monotonic()
        self._marks.append((now, step))
        while len(self._marks) > 2 and now - self._marks[1][0] > _WINDOW:
            self._marks.popleft()
        then, first = self._marks[0]
        if step <= first:
            return None
        return (now - then) / (step - first) * max(self.total - step, 0)


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
