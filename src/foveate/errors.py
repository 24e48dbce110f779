"""What Foveate says when it cannot go on: every message names file, field, found, expected and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["refuse", "aside", "warn"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input.

    severity: ``refuse`` stops the command, ``aside`` leaves the case out and goes on, ``warn`` is recorded.
    """

    file: str
    field: str
    found: str
    expected: str
    fix: str
    severity: Severity = "refuse"
    case: str | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: found {self.found}; expected {self.expected}. {self.fix}"


class FoveateError(Exception):
    """An error that the person at the keyboard can act on. The command line prints it without a traceback."""

    exit_code = 1


class InputError(FoveateError):
    """Input that is refused. Carries every problem that was found in the pass, not only the first."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def refuse(file: object, field: str, found: object, expected: str, fix: str) -> InputError:
    """The common case: one problem that stops the command; ``raise refuse(...)``."""
    return InputError(Problem(str(file), field, str(found), expected, fix))
