"""Pages that list what the code knows: all settings with their defaults and limits, and all functions."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

import foveate
from foveate.cli import app
from foveate.config import Config

DOCS = Path(__file__).parents[1] / "docs"


def settings(model: type[BaseModel] = Config, before: str = "") -> dict[str, tuple[str, str]]:
    """key -> (default, what it may be), as docs/settings.md writes them."""
    found: dict[str, tuple[str, str]] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= settings(kind, f"{before}{name}.")
        else:
            found[before + name] = shown(field.default), f"{what(kind)}{limits(field.metadata)}"
    return found


def shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def what(kind: Any) -> str:
    """Kind of value, without none, which the default says."""
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is list:
        return "list of numbers"
    if args := [arg for arg in get_args(kind) if arg is not type(None)]:
        return ", ".join(map(what, args))
    return {bool: "true, false", int: "whole number", float: "number", str: "text"}[kind]


def limits(metadata: list[Any]) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [
        f"{sign} {shown(getattr(part, key))}" for part in metadata for key, sign in signs.items() if hasattr(part, key)
    ]
    return " " * bool(found) + ", ".join(found)


def test_the_page_of_settings_has_every_key_with_its_default_and_limits() -> None:
    lines = [line for line in (DOCS / "settings.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert {key.strip("`"): (default, values) for key, default, values, _ in cells} == settings()
    assert all(meaning for *_, meaning in cells)


def test_the_page_of_python_has_every_function() -> None:
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    assert [name for name in foveate.__all__ if name != "__version__" and f"`foveate.{name}(" not in text and
            f"`{name}(" not in text] == []  # fmt: skip
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert [name for name in names if name != "demo" and f"`foveate {name}" not in text] == []
