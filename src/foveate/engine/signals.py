"""SIGTERM, SIGINT and SIGHUP ask for save-and-stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from foveate.errors import FoveateError

# SIGHUP is what a terminal that is closed, or a connection to it that breaks, sends; not every system has it.
ASKING = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Stopped(FoveateError):
    """Training was asked to stop and has saved; the exit code is 128 + signal (143 for SIGTERM)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StopSignals:
    """requested: whether a signal has asked to save and stop. signal: which one."""

    def __init__(self) -> None:
        self.requested = False
        self.signal: signal.Signals | None = None

    def stopped(self, step: int) -> Stopped:
        """The error to raise once the checkpoint of ``step`` is saved."""
        name = self.signal.name if self.signal else "request"
        code = 128 + self.signal if self.signal else 1
        return Stopped(f"Stopped by {name} at step {step}; everything is saved. --resume continues from here.", code)


@contextlib.contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Let the first of these signals set a flag in place of ending the process; a second one ends it as usual.

    One that is ignored stays so: whoever starts a training by nohup wants it to outlive the terminal. Outside the main
    thread, where Python cannot catch signals, the flag is simply never set.
    """
    stop = StopSignals()
    previous: dict[signal.Signals, Any] = {}

    def restore() -> None:
        while previous:
            number, handler = previous.popitem()
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.requested, stop.signal = True, signal.Signals(number)
        restore()

    with contextlib.suppress(ValueError):
        for number in ASKING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore()
