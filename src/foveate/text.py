"""Words for people."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str:
    """What to do about an unknown name: the nearest known one, if any is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else "Use one of the names listed."


def printable(text: str) -> str:
    """A text with a sign to be seen in place of each control character, which a terminal would obey; lines stay."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_form(name: str) -> str:
    """A name as it is compared with others: macOS writes "ä" as a letter and a mark, others as one sign."""
    return unicodedata.normalize("NFC", name)
