"""What Foveate says when it cannot go on: every message names file, field, found, expected and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from foveate.text import printable

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
        return printable(f"{self.file}: {self.field}: found {self.found}; expected {self.expected}. {self.fix}")


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


def invalid(file: object, error: Mapping[str, Any], fix: str) -> Problem:
    """A field that pydantic refused, an item of its ``errors()``, in our words: "Input should be a valid integer, ..."
    is "a whole number", and the kinds that a value may be of are no part of its name."""
    field = ".".join(str(part) for part in error["loc"] if "[" not in str(part))
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ").split(", unable")[0]
    text = text.replace("a valid integer", "a whole number").replace("a valid ", "a ")
    expected = f"a number {text}" if text.startswith(("less than", "greater than")) else text
    together = not field and isinstance(error["input"], Mapping)
    found = "values that do not fit together" if together else repr(error["input"])[:80]
    return Problem(str(file), field or "document", found, expected, fix)
