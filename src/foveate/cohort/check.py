"""``foveate check``: reads every scan and every allowed label once and lists all problems in one pass."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from foveate.cohort.box_table import BOXES, Masks, box_problems, check_masks, mask_problems
from foveate.cohort.cohort import IGNORE, Cohort
from foveate.cohort.duplicates import also_in_test, duplicates_of
from foveate.cohort.facts import CaseFacts, Facts, measure_case_safely
from foveate.cohort.label_checks import problems_of_label, problems_of_labels
from foveate.cohort.layout_boxes import open_annotations, settle_boxes, shortest_sides
from foveate.cohort.layouts import find_cohort, keep_labelled, read_ids
from foveate.cohort.missing import missing_modalities
from foveate.cohort.outliers import LIMIT, outliers
from foveate.cohort.targets import class_counts, of_maps, target_problems
from foveate.errors import InputError, Problem, Severity
from foveate.slices import COLOURS

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CheckReport:
    """The outcome of a check.

    cohort: cases set aside and duplicates are removed, classes and channels filled in. facts: of every case of it
    that could be read. problems: everything that was found, by severity refuse, aside, warn. masks: SHA-256 of those
    that have no image, by name.
    """

    cohort: Cohort
    facts: Facts
    problems: list[Problem]
    masks: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the cohort can be trained on."""
        return all(problem.severity != "refuse" for problem in self.problems)

    @property
    def wanted(self) -> list[str]:
        """Options without which ``foveate train`` refuses the cohort."""
        cohort, found = self.cohort, []
        if any(case.missing for case in cohort.cases):
            found.append("--network fusion_unet")
        if cohort.task == "segmentation" and not cohort.labelled and any(case.boxes for case in cohort.cases):
            found.append("--method adversarial_constraint")
            if not cohort.masks:
                found.append("--set method.critic_weight=0")
        return found

    def raise_if_refused(self) -> None:
        """Raise InputError with every refused problem, if there is one."""
        refused = [problem for problem in self.problems if problem.severity == "refuse"]
        if refused:
            raise InputError(refused)

    def notes(self, most: int = 3) -> list[str]:
        """What a training says of the problems: each in a line, but of more than ``most`` with one field and severity
        the first ``most`` and how many others there are."""
        kinds: dict[tuple[str, str], list[Problem]] = {}
        for problem in self.problems:
            kinds.setdefault((problem.field, problem.severity), []).append(problem)
        lines: list[str] = []
        for (name, severity), found in kinds.items():
            lines += map(str, found[:most])
            if (more := len(found) - most) > 0:
                done = ", and these cases are set aside" if severity == "aside" else ""
                lines.append(f"{name}: {more} more like these{done}. foveate check {self.cohort.root} lists them.")
        return lines

    def table(self) -> dict[str, Any]:
        """The cohort in numbers, ready for JSON; every range is (least, median, largest) over the cases.

        size: voxels per axis in file order. spacing: mm (pixels). intensity: percentiles 0.5, 50, 99.5 per channel.
        volumes: per class the number of labelled cases that have it and mL (pixels for pictures).
        """
        cohort, facts = self.cohort, list(self.facts.values())
        same = [fact for fact in facts if len(fact.shape) == cohort.dims]
        named = [fact for fact in same if fact.channels == len(cohort.channels)]
        axes = range(cohort.dims)
        return {
            "root": str(cohort.root),
            "layout": cohort.layout,
            "dims": cohort.dims,
            "channels": list(cohort.channels),
            "cases": len(cohort.cases),
            "labelled": len(cohort.labelled),
            "unlabelled": len(cohort.unlabelled),
            "patients": len({case.patient for case in cohort.cases}),
            "size": [_range(fact.shape[axis] for fact in same) for axis in axes],
            "spacing": [_range(fact.spacing[axis] for fact in same) for axis in axes],
            "orientation": dict(Counter(fact.orientation for fact in same if fact.orientation).most_common()),
            "intensity": {
                name: {
                    str(percentile): _range(fact.percentiles[number][place] for fact in named if fact.has(number))
                    for percentile, place in ((0.5, 0), (50, 2), (99.5, 4))
                }
                for number, name in enumerate(cohort.channels)
            },
            "tree": {name: list(children) for name, children in cohort.tree.items()},
            "volumes": {name: class_volumes(facts, value) for name, value in of_maps(cohort).items()},
            "volume_unit": "mL" if cohort.dims == 3 else "pixels",
            "task": cohort.task,
            "classes": class_counts(cohort),
            "boxes": box_numbers(cohort, self.facts) if cohort.task == "detection" else {},
            "values": _range(case.target for case in cohort.labelled) if cohort.task == "regression" else [],
        }


def check(
    data: Path | str,
    labelled: Path | str | None = None,
    progress: Progress | None = None,
    needs_labels: bool | None = None,
    keep_outliers: bool = False,
    takes_missing: bool = True,
    task: str | None = None,
) -> CheckReport:
    """Find the cohort in the folder ``data`` and check all of it.

    labelled: file with one case id a line; only these labels are opened, all other cases count as unlabelled.
    needs_labels: false where images or boxes will do, as for pre-training; then no class has to be shown by a label.
        None: unless there are boxes.
    keep_outliers: unlabelled scans that look unlike the cohort are only said, not set aside.
    takes_missing: a case without the file of a modality is only said, not refused; some networks take it.
    task: what is to be predicted; what the layout says, if None.
    Raises InputError when the layout is not recognised or ``labelled`` names what is not there. Everything else
    is in the report's ``problems``.
    """
    cohort = find_cohort(Path(data), task)
    if labelled is not None:
        cohort = keep_labelled(cohort, read_ids(Path(labelled)), labelled)
    return check_cohort(
        cohort,
        progress=progress,
        draw=labelled,
        needs_labels=needs_labels,
        keep_outliers=keep_outliers,
        takes_missing=takes_missing,
    )


def check_cohort(
    cohort: Cohort,
    workers: int | None = None,
    progress: Progress | None = None,
    *,
    draw: Path | str | None = None,
    needs_labels: bool | None = None,
    keep_outliers: bool = False,
    takes_missing: bool = True,
) -> CheckReport:
    """Read and judge every case in parallel. ``progress`` is told (cases done, cases) now and then.

    draw: the file that chose the labelled cases, if one did. The others are those of ``check``.
    """
    declared = len(cohort.channels) or None
    cohort, unread = open_annotations(cohort)
    workers = workers or min(8, _processors())
    facts: Facts = {}
    problems = [*cohort.problems, *unread, *missing_modalities(cohort, takes_missing)]
    with ThreadPoolExecutor(workers) as pool:
        measured = pool.map(lambda case: measure_case_safely(case, declared, cohort.ignore), cohort.cases)
        for done, (case, (fact, found)) in enumerate(zip(cohort.cases, measured, strict=True), 1):
            problems += found
            if fact is not None:
                facts[case.id] = fact
            if progress is not None:
                progress(done, len(cohort.cases))
    aside = {problem.case for problem in problems if problem.severity == "aside"}
    cohort = cohort.only({case.id for case in cohort.cases} - aside)
    facts = {case: fact for case, fact in facts.items() if case not in aside}
    masks, found = check_masks(cohort)
    problems += found
    cohort, found = _fill_in(cohort, facts, masks)
    problems += found + _one_kind(cohort, facts)
    if cohort.task == "detection":
        maps = [case for case in cohort.labelled if case.label is not None]
        problems += [problem for case in maps for problem in problems_of_label(cohort, case, facts.get(case.id))]
        cohort, found = settle_boxes(cohort, {case: fact.shape for case, fact in facts.items()})
        problems += found
    if cohort.task != "segmentation":
        problems += target_problems(cohort, facts, draw, needs_labels is not False)
    duplicates, found = duplicates_of(cohort, facts)
    problems += found + also_in_test(cohort, facts)
    cohort = cohort.only({case.id for case in cohort.cases} - duplicates)
    facts = {case: fact for case, fact in facts.items() if case not in duplicates}
    # A class may look unlike the others, and a rare one would be set aside whole: it is only said.
    unlike, found = _outliers(cohort, facts, keep_outliers or cohort.task == "classification")
    problems += found
    cohort = cohort.only({case.id for case in cohort.cases} - unlike)
    facts = {case: fact for case, fact in facts.items() if case not in unlike}
    if cohort.task == "segmentation":
        labelled = [(case, facts.get(case.id)) for case in cohort.labelled]
        problems += [problem for case, fact in labelled for problem in problems_of_label(cohort, case, fact)]
        problems += [problem for case in cohort.cases for problem in box_problems(cohort, case, facts.get(case.id))]
        problems += mask_problems(cohort, masks)
        if needs_labels is None and not cohort.labelled and any(case.boxes for case in cohort.cases):
            fix = "They are enough for --method adversarial_constraint, and for no other."
            problems.append(Problem(str(cohort.root / BOXES), "labels", "none, and boxes", "labels", fix, "warn"))
        elif needs_labels is not False:
            problems += problems_of_labels(cohort, facts, draw)
    order = {"refuse": 0, "aside": 1, "warn": 2}
    return CheckReport(cohort, facts, sorted(problems, key=lambda problem: order[problem.severity]), masks.sha256)


def box_numbers(cohort: Cohort, facts: Facts) -> dict[str, dict[str, list[float]]]:
    """Per class the range of its boxes in a labelled case, and of their shortest sides in mm (pixels for pictures)."""
    sides = shortest_sides(cohort, facts)
    return {
        name: {
            "in a case": _range(sum(box.name == name for box in case.target) for case in cohort.labelled),
            "shortest side": _range(sides[name].tolist()),
        }
        for name in cohort.classes
    }


def class_volumes(facts: Iterable[CaseFacts], value: int | tuple[int, ...]) -> dict[str, Any]:
    """Cases that have a class, of how many labelled ones, and the range of its volume in mL (pixels for pictures)."""
    values = value if isinstance(value, tuple) else (value,)
    volumes = [
        sum(fact.voxels.get(part, 0) for part in values) * fact.voxel_volume
        for fact in facts
        if fact.voxels is not None
    ]
    present = [volume for volume in volumes if volume > 0]
    return {"cases": len(present), "of": len(volumes), "volume": _range(present)}


def _range(values: Iterable[float]) -> list[float]:
    """Least, median and largest; empty for no values."""
    listed = [float(value) for value in values]
    return [min(listed), float(np.median(listed)), max(listed)] if listed else []


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fill_in(cohort: Cohort, facts: Facts, masks: Masks) -> tuple[Cohort, list[Problem]]:
    """Channel names and classes that nothing on disk declares; classes from labels and masks."""
    problems: list[Problem] = []
    if not cohort.channels and facts:
        count = Counter(fact.channels for fact in facts.values()).most_common(1)[0][0]
        names: dict[tuple[int, int], tuple[str, ...]] = {(2, 1): ("grey",), (3, 1): ("image",)}
        if all(len(case.images) == 1 for case in cohort.cases):  # three grey files a case are three images, no colours
            names[2, 3] = COLOURS
        fallback = tuple(f"channel {number}" for number in range(count))
        cohort = replace(cohort, channels=names.get((cohort.dims, count), fallback))
    if not cohort.classes and cohort.task == "segmentation" and (cohort.labelled or masks.values):
        shown = {value for fact in facts.values() for value in fact.structures} | masks.values
        values = sorted(shown - {cohort.ignore})
        wrong = [value for value in values if not 0 < value < IGNORE]
        if wrong:
            folder = str(cohort.labelled[0].label if cohort.labelled else cohort.masks[0])
            found = f"values {', '.join(map(str, wrong[:8]))}"
            fix = "Renumber the classes from 1, or name the classes in dataset.json."
            problems.append(Problem(folder, "label values", found, "1 to 254", fix))
        else:
            cohort = replace(cohort, classes={f"class {value}": value for value in values})
    return cohort, problems


def _one_kind(cohort: Cohort, facts: Facts) -> list[Problem]:
    """All cases must have the same number of channels."""
    groups: dict[int, list[str]] = defaultdict(list)
    for case, fact in facts.items():
        groups[fact.channels].append(case)
    if len(groups) < 2:
        return []
    found = "; ".join(f"{count} in {len(cases)} cases ({cases[0]}, ...)" for count, cases in sorted(groups.items()))
    fix = "Give all cases the same channels (convert RGB to grey, or add the missing ones)."
    return [Problem(str(cohort.root), "channels", found, "the same number in all cases", fix)]


def _outliers(cohort: Cohort, facts: Facts, keep: bool) -> tuple[set[str], list[Problem]]:
    """Unlabelled cases to set aside because they look unlike the cohort, and what to say about those and labelled ones.

    What has a label is kept: somebody has looked at it.
    """
    aside: set[str] = set()
    problems = []
    found = outliers(facts, cohort.channels, {case.id for case in cohort.labelled})
    for case in cohort.cases:
        if case.id not in found:
            continue
        severity: Severity = "warn"
        fix = "It is kept. Check that it is what it should be."
        if not case.labelled and not keep:
            severity = "aside"
            fix = "It is set aside. If it belongs here: --set unlabelled_outliers=keep."
            aside.add(case.id)
        far = found[case.id]
        text = f"{far.what}: {far.deviations:.1f} robust deviations from the cohort"
        expected = f"at most {LIMIT:g}, as scans of one kind have"
        problems.append(Problem(str(case.images[0]), "appearance", text, expected, fix, severity, case.id))
    return aside, problems
