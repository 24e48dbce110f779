"""Attributes of one DICOM file as they are in it.

Values are taken as raw bytes: pydicom converts none of them, whose warnings would quote it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from foveate.errors import Problem, Severity

AGAIN = "Export the series again; if the scanner wrote it so, convert it with a tool that knows the scanner."
# Functional group of the attributes that each frame of a multi-frame image has for itself.
GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}


class Fields:
    """The attributes of a file by their names; what is wrong with one is noted in ``problems``, once."""

    def __init__(self, path: Path, dataset: Dataset) -> None:
        self.path, self.dataset = path, dataset
        self.problems: list[Problem] = []

    @property
    def usable(self) -> bool:
        return all(problem.severity == "warn" for problem in self.problems)

    def note(self, field: str, found: object, expected: str, fix: str, severity: Severity = "refuse") -> None:
        problem = Problem(str(self.path), field, str(found), expected, fix, severity)
        if problem not in self.problems:
            self.problems.append(problem)

    def text(self, name: str) -> str:
        return "\\".join(texts(self.dataset, name))

    def whole(self, name: str, default: int = 0) -> int:
        """An attribute of two bytes (US)."""
        element: Any = self.dataset.get_item(name)
        value = None if element is None else element.value
        if isinstance(value, bytes) and len(value) >= 2:
            return int.from_bytes(value[:2], "little" if element.is_little_endian else "big")
        return value if isinstance(value, int) else default  # pydicom converts what it needs to read sequences

    def numbers(
        self, name: str, count: int, groups: Sequence[Dataset] | None, default: float | None = None
    ) -> tuple[float, ...]:
        """Finite numbers, of the first of the functional ``groups`` that has them or of the file; where there are none,
        ``default``. NaN, and a note, where it should not be so."""
        found = texts(self.dataset, name) if groups is None else nested(groups, name)
        if not found and default is not None:
            return (default,) * count
        try:
            values = tuple(float(text) for text in found)
        except ValueError:
            values = ()
        if len(values) == count and all(map(math.isfinite, values)):
            return values
        what = f"{len(found)} values, or no numbers" if found else "nothing"
        self.note(name, what, f"{count} finite number{'s' * (count > 1)}", AGAIN)
        return (math.nan,) * count


def texts(dataset: Dataset, name: str) -> list[str]:
    """The values of an attribute as text, [] without any."""
    element = dataset.get_item(name)
    value = None if element is None else element.value
    if isinstance(value, bytes):
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        return [part.strip(" \0") for part in text.split("\\")] if text.strip(" \0") else []
    if value is None or value == "":
        return []
    return [str(part) for part in value] if isinstance(value, list | tuple) else [str(value)]


def sequence(dataset: Dataset, name: str) -> list[Dataset]:
    try:
        return list(dataset.get(name) or [])
    except Exception:  # damaged bytes: what should be in it is then found to be absent
        return []


def nested(groups: Sequence[Dataset], name: str) -> list[str]:
    """An attribute of a frame: its own, else the shared one."""
    for group in groups:
        for item in sequence(group, GROUPS[name])[:1]:
            if found := texts(item, name):
                return found
    return []


def plain(text: str) -> str:
    """A code of a header, fit to be shown: nothing but what the standard allows in one."""
    return "".join(sign for sign in text if sign.isascii() and (sign.isalnum() or sign in " _.-(),"))[:64]


def words(text: str) -> frozenset[str]:
    """The words of a text in small letters; single letters do not count."""
    letters = "".join(sign if sign.isalnum() else " " for sign in text.casefold())
    return frozenset(word for word in letters.split() if len(word) > 1)
