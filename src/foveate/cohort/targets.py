"""Labels that are no maps, over a whole cohort: how many cases of each class, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.cohort.cohort import Cohort
from foveate.cohort.facts import CaseFacts
from foveate.errors import Problem

SMALLEST = 8  # pixels along each axis, below which a picture shows nothing


def class_counts(cohort: Cohort) -> dict[str, int]:
    """Labelled cases of each class, by boxes that teach; empty where labels are maps or numbers."""
    if cohort.task == "detection":
        shown = [{box.name for box in case.target if not box.ignored} for case in cohort.labelled]
        counts = Counter(name for names in shown for name in names)
    elif cohort.task == "classification":
        counts = Counter(name for case in cohort.labelled for name in case.target)
    else:
        return {}
    return {name: counts[name] for name in cohort.classes}


def of_maps(cohort: Cohort) -> dict[str, int | tuple[int, ...]]:
    """The classes, where labels are maps in which they have a volume."""
    return cohort.classes if cohort.task == "segmentation" else {}


def target_problems(
    cohort: Cohort, facts: Mapping[str, CaseFacts], draw: Path | str | None, needs_labels: bool
) -> list[Problem]:
    """Problems of the labels together, and of pictures too small to show anything. draw: as for ``check_cohort``."""
    root, problems = str(draw or cohort.root), []
    for case in cohort.cases:
        if case.id in facts and cohort.dims == 2 and min(facts[case.id].shape) < SMALLEST:
            found = f"{' x '.join(map(str, facts[case.id].shape))} pixels"
            expected = f"at least {SMALLEST} along each axis"
            problems.append(Problem(str(case.images[0]), "size", found, expected, "Remove the picture.", case=case.id))
    if not needs_labels:
        return problems
    if not cohort.labelled:
        found, fix = f"{len(cohort.cases)} cases, none with a label that can be used", "Label at least one case."
        return [*problems, Problem(root, "labels", found, "labelled cases", fix)]
    if cohort.task == "detection":
        problems += _box_problems(cohort, root)
    if cohort.task == "classification":
        problems += _class_problems(cohort, root)
    if cohort.task == "regression" and len({case.target for case in cohort.labelled}) == 1:
        found = f"one number, {cohort.labelled[0].target:g}, in {len(cohort.labelled)} labelled cases"
        problems.append(Problem(root, "values", found, "numbers that differ", "There is nothing to learn here."))
    return problems


def _box_problems(cohort: Cohort, root: str) -> list[Problem]:
    counts = class_counts(cohort)
    if not counts:
        found, fix = f"no box in {len(cohort.labelled)} labelled cases", "Label a case that shows something."
        return [Problem(root, "boxes", found, "at least one", fix)]
    fix = "Label a case that shows it, or remove the class: what no label shows cannot be learned."
    difficult = {box.name for case in cohort.labelled for box in case.target}
    return [
        Problem(
            root,
            f"class {name}",
            f"no box{' but difficult ones' * (name in difficult)}, in {len(cohort.labelled)} labelled cases",
            "at least one",
            fix,
        )
        for name, count in counts.items()
        if count == 0
    ]


def _class_problems(cohort: Cohort, root: str) -> list[Problem]:
    problems, counts = [], class_counts(cohort)
    if len(counts) < 2 and cohort.exclusive:
        fix = "Add a folder, or lines, of another class: with one class there is nothing to tell apart."
        problems.append(Problem(root, "classes", ", ".join(counts) or "none", "at least two", fix))
    for name, count in counts.items():
        if count == 0:
            fix = "Label a case of it, or remove the class: what no label shows cannot be learned."
            found = f"no labelled case, in {len(cohort.labelled)}"
            problems.append(Problem(root, f"class {name}", found, "every class in some label", fix))
        elif count == 1:
            fix = "It teaches, but nothing is left to test the class on: no number about it can be claimed."
            problems.append(Problem(root, f"class {name}", "one labelled case", "several", fix, "warn"))
        elif count == len(cohort.labelled) and not cohort.exclusive:
            fix = "Label a case without it: what all cases have cannot be told from its absence."
            problems.append(Problem(root, f"class {name}", f"in all {count} labelled cases", "not in all", fix))
    return problems


def statistics(cohort: Cohort) -> dict[str, Any]:
    """What a plan keeps of the labels: weights of classes, or mean and deviation of numbers.

    Imbalance is met by weights in the loss, not by drawing rare classes more often: with few labels that would show
    the same few pictures again and again. A class has the weight (N / (K n))^(1/2), the square root of what would make
    all classes count the same, because the whole of it buys sensitivity to rare classes with probabilities far from
    their frequency; weights have mean 1 over the cases. A class that is there or not: ((N - n) / n)^(1/2), at most 4.
    """
    labelled = cohort.labelled
    if cohort.task == "regression":
        values = [float(case.target) for case in labelled]
        mean = sum(values) / len(values)
        deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
        return {"target_mean": mean, "target_std": deviation or 1.0}
    if cohort.task != "classification":
        return {}
    counts, total = class_counts(cohort), len(labelled)
    if not cohort.exclusive:
        weights = {name: min(max((total - n) / n, 0.0625), 16) ** 0.5 if n else 1.0 for name, n in counts.items()}
        return {"class_weights": {name: round(weight, 4) for name, weight in weights.items()}}
    raw = {name: (total / (len(counts) * n)) ** 0.5 if n else 1.0 for name, n in counts.items()}
    mean = sum(raw[name] * n for name, n in counts.items()) / total
    return {"class_weights": {name: round(weight / mean, 4) for name, weight in raw.items()}}
