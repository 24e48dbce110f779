"""Tables in Markdown, and their place in a page of documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foveate.errors import refuse
from foveate.files import write_atomic


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; every column but the first is set right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def check_section(name: str, path: Path) -> None:
    """Raises InputError when a page does not hold each marker of a section once, in order."""
    begin, end = markers(name)
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise refuse(path, "file", error.strerror, "a page of documentation", "Check the path.") from None
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        found = f"{page.count(begin)} and {page.count(end)} of them"
        raise refuse(
            path,
            "markers",
            found,
            f"{begin} and {end}, once each, in that order",
            "Write these two lines where it is to stand.",
        )


def write_section(name: str, text: str, path: Path) -> None:
    """Put ``text`` between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` of a page and leave the rest alone.

    Raises InputError when the page does not hold each marker once, in that order.
    """
    check_section(name, path)
    page = path.read_text(encoding="utf-8")
    begin, end = markers(name)
    before, rest = page.split(begin)
    write_atomic(path, f"{before}{begin}\n{text.strip()}\n{end}{rest.split(end)[1]}")


def markers(name: str) -> tuple[str, str]:
    return f"<!-- begin {name} -->", f"<!-- end {name} -->"
