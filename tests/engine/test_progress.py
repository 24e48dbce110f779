"""Progress: an honest time left, plain lines where there is no terminal, silence when asked."""

import io
import time

import pytest
from rich.console import Console

from foveate.engine import progress as module
from foveate.engine.progress import TrainingProgress, duration


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_lines_come_once_per_interval_and_at_the_end(clock: Clock) -> None:
    console = plain()
    with TrainingProgress(100, console=console, interval=30) as progress:
        for step in range(1, 101):
            clock.now += 1
            progress.update(step, loss=1 / step, lr=2e-3, dice=0.5 if step == 40 else None)
    lines = text(console).splitlines()
    assert [line.split()[1] for line in lines] == ["1/100", "31/100", "61/100", "91/100", "100/100"]
    assert "Dice" not in lines[1]
    assert "Dice 0.500" in lines[2], "the last Dice stays in sight"
    assert "39 s left" in lines[2]
    assert "lr 2.00e-03" in lines[0]
    assert lines[-1].endswith("0 s left")


def test_the_time_left_follows_the_speed_of_the_last_minute(clock: Clock) -> None:
    console = plain()
    with TrainingProgress(1000, console=console, interval=0) as progress:
        for step in range(1, 301):  # fast at first, then ten times slower
            clock.now += 1.0 if step <= 200 else 10.0
            progress.update(step, loss=1.0, lr=1e-3)
    assert text(console).splitlines()[-1].endswith(f"{duration(700 * 10)} left")


def test_what_the_caller_knows_is_shown_and_the_total_can_be_corrected(clock: Clock) -> None:
    console = plain()
    with TrainingProgress(10, console=console) as progress:
        progress.update(3, loss=1.0, lr=1e-3, seconds_left=125, total=20)
    assert text(console) == "step 3/20  loss 1.0000  lr 1.00e-03  2 min 05 s left\n"


def test_preparation_comes_first(clock: Clock) -> None:
    console = plain()
    with TrainingProgress(console=console, interval=30) as progress:
        for done in range(1, 51):
            clock.now += 1
            progress.counting("scans prepared", done, 50)
        progress.update(1, loss=1.0, lr=1e-3, total=9)
    lines = text(console).splitlines()
    assert lines[:3] == ["scans prepared: 1/50", "scans prepared: 31/50", "scans prepared: 50/50"]
    assert lines[3].startswith("step 1/9")


def test_quiet_says_nothing() -> None:
    console = plain()
    with TrainingProgress(10, quiet=True, console=console) as progress:
        progress.note("hello")
        progress.update(10, loss=1.0, lr=1e-3)
    assert text(console) == ""


def test_notes_and_names_are_never_read_as_markup() -> None:
    console = plain()
    with TrainingProgress(10, console=console) as progress:
        progress.note("case [red]x[/] [/broken]")
    assert text(console).strip() == "case [red]x[/] [/broken]"


def test_in_a_terminal_there_is_a_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with TrainingProgress(10, console=console) as progress:
        progress.counting("scans prepared", 2, 3)
        progress.update(4, loss=0.25, lr=1e-3, dice=0.9, seconds_left=5)
        progress.note("half-way")
        time.sleep(0.01)
    shown = text(console)
    assert "━" in shown
    assert "4/10" in shown
    assert "loss 0.2500" in shown
    assert "5 s left" in shown
    assert "half-way" in shown


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (-3, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7830, "2 h 10 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
