"""Words for people."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str:
    """What to do about an unknown name: the nearest known one, if any is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else "Use one of the names listed."


def one_form(name: str) -> str:
    """A name as it is compared with others: macOS writes "ä" as a letter and a mark, others as one sign."""
    return unicodedata.normalize("NFC", name)
