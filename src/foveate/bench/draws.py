"""Which cases are the labelled ones: a draw is an order of the cases, and its first N carry a label.

So draws are nested (4 within 8 within 16), and a draw does not depend on which numbers of labels are asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from foveate.cohort.cohort import Case
from foveate.cohort.layouts import read_ids
from foveate.errors import refuse

LISTED = re.compile(r"labelled_(\d+)\.txt")


Shows = Callable[[Case], frozenset[str]]
"""The classes that the label of a case shows."""


def draw_order(cases: Sequence[Case], draw: int, classes: Collection[str], shows: Shows) -> list[str]:
    """The ids of ``cases`` in the random order of a draw, patient by patient: the same on any machine.

    Patients are sorted by a hash of draw and name, so that one more or less changes nothing for the others. Whoever is
    the first to show one of ``classes`` comes before all who are not, so that few labels show every class; a draw that
    showed them all anyway keeps its cases. No label is opened once every class was seen.
    """
    patients: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.id):
        patients.setdefault(case.patient, []).append(case)
    order = sorted(patients, key=lambda patient: hashlib.sha256(f"draw {draw}: {patient}".encode()).hexdigest())
    first: list[str] = []
    rest: list[str] = []
    seen: frozenset[str] = frozenset()
    for patient in order:
        new = frozenset[str]()
        if len(seen) < len(classes):
            new = frozenset().union(*map(shows, patients[patient])) - seen
        (first if new else rest).append(patient)
        seen |= new
    return [case.id for patient in [*first, *rest] for case in patients[patient]]


def listed_order(data: Path, cases: Sequence[Case]) -> list[str]:
    """The order that the files ``labelled_N.txt`` of a dataset give; empty where there are none.

    Raises InputError when a file does not name N cases that may train, or not those of the next smaller file.
    """
    files = {int(match[1]): path for path in data.glob("labelled_*.txt") if (match := LISTED.fullmatch(path.name))}
    may_train = {case.id for case in cases}
    order: list[str] = []
    for count, path in sorted(files.items()):
        ids = read_ids(path)
        if len(ids) != count:
            raise refuse(path, "case ids", f"{len(ids)} cases", f"{count}", "Correct the list, or rename it.")
        if strange := [name for name in ids if name not in may_train]:
            found = f"{len(strange)} cases such as {strange[0]}"
            expected = "labelled cases that are neither scored nor left out"
            raise refuse(path, "case ids", found, expected, "Take them out of one of the lists.")
        if missing := [name for name in order if name not in ids]:
            fix = "Draws of more labels must hold those of fewer."
            raise refuse(path, "case ids", f"no {missing[0]}", f"all {len(order)} cases of the smaller list", fix)
        order += [name for name in ids if name not in order]
    return order


class Draws:
    """The draws of a benchmark: number 0 is what ``labelled_N.txt`` lists, where there are such files."""

    def __init__(self, data: Path, cases: Sequence[Case], classes: Collection[str], shows: Shows) -> None:
        """cases: those that may train and have a label."""
        self.data, self.cases, self.classes, self.shows = data, {case.id: case for case in cases}, classes, shows
        self._orders: dict[int, list[str]] = {}

    def take(self, draw: int, labels: int) -> list[str]:
        """The ids of the labelled cases, sorted. Raises InputError when there are too few or they miss a class."""
        if not 0 < labels <= len(self.cases):
            expected = f"1 to {len(self.cases)}, as there are {len(self.cases)} labelled cases that may train"
            raise refuse("--labels", "number", labels, expected, "Ask for fewer, or for --ceiling.")
        ids = self._order(draw)[:labels]
        shown = frozenset().union(*(self.shows(self.cases[name]) for name in ids))
        if missing := [name for name in self.classes if name not in shown]:
            found = f"no {', '.join(missing)} in the {labels} labels of draw {draw}"
            raise refuse("--labels", "classes", found, "every class in at least one label", "Ask for more labels.")
        return sorted(ids)

    def _order(self, draw: int) -> list[str]:
        if draw not in self._orders:
            cases = list(self.cases.values())
            listed = listed_order(self.data, cases) if draw == 0 else []
            drawn = draw_order(cases, draw, self.classes, self.shows)
            self._orders[draw] = [*listed, *(name for name in drawn if name not in listed)]
        return self._orders[draw]
