"""What is wrong with label maps: each by itself, and all of them together."""

from __future__ import annotations

from pathlib import Path

from foveate.cohort.cohort import IGNORE, Case, Cohort
from foveate.cohort.facts import CaseFacts, Facts
from foveate.cohort.tree import leaf_classes
from foveate.errors import Problem


def problems_of_label(cohort: Cohort, case: Case, fact: CaseFacts | None) -> list[Problem]:
    """What the values of one label say: outside the classes, nothing at all, or a single voxel."""
    if fact is None or fact.voxels is None:
        return []
    problems = []
    names: dict[int, str] = {}
    for name, value in cohort.classes.items():
        for part in value if isinstance(value, tuple) else (value,):
            names.setdefault(part, name)
    allowed = {0, IGNORE, cohort.ignore, *names}
    outside = {value: count for value, count in fact.voxels.items() if value not in allowed}
    if outside and cohort.classes:
        found = ", ".join(f"value {value} in {count:,} voxels" for value, count in sorted(outside.items())[:8])
        expected = "0, " + ", ".join(f"{value} ({name})" for value, name in sorted(names.items()))
        fix = "Correct the label, or name the class in dataset.json."
        problems.append(Problem(str(case.label), "label values", found, expected, fix, case=case.id))
    if not fact.structures.keys() - {cohort.ignore}:
        fix = "Right if nothing is there to be seen; otherwise remove the file, and the case is unlabelled."
        expected = "at least one voxel of a class"
        problems.append(Problem(str(case.label), "label", "empty", expected, fix, "warn", case.id))
    for value, count in fact.structures.items():
        if count == 1 and value in names:
            found = f"one voxel of {names[value]} (value {value})"
            fix = "It is kept. Check that it is no slip of the mouse."
            problems.append(Problem(str(case.label), "label", found, "a structure", fix, "warn", case.id))
    return problems


def problems_of_labels(cohort: Cohort, facts: Facts, draw: Path | str | None = None) -> list[Problem]:
    """What can only be seen over all labels together. draw: the file that chose them, if one did."""
    root, labelled = str(cohort.root), cohort.labelled
    if not labelled:
        found = f"{len(cohort.cases)} cases, none with a label that can be used"
        fix = "Label at least one scan and put the file beside the images, under the same name; images alone are "
        fix += "enough for --method masked_autoencoder, which only pre-trains."
        return [Problem(root, "labels", found, "at least one labelled case", fix)]
    problems = []
    measured = [facts[case.id] for case in labelled if case.id in facts]
    present = {value for fact in measured for value in fact.structures} - {cohort.ignore}
    if len(measured) == len(labelled) and not present:
        fix = "At least one label must show a structure."
        if any(fact.voxels and IGNORE in fact.voxels for fact in measured):
            fix = "The value 255 means 'no information here'. If it marks the structure, write 1 in its place."
        problems.append(Problem(root, "labels", "every label is empty", "structures in the labels", fix))
    elif len(measured) == len(labelled):
        for name, value in leaf_classes(cohort.classes, cohort.tree).items():
            values = {value} if isinstance(value, int) else set(value)
            if not values & present:
                found = f"no voxel of {name} (value {value}) in {len(labelled)} labelled cases"
                fix = "Label a case that shows it, or remove the class from dataset.json."
                if draw is not None:
                    found += f" ({', '.join(case.id for case in labelled[:8])}{', ...' if len(labelled) > 8 else ''})"
                    fix = f"Name a case that shows {name} in this file, or remove the class from dataset.json."
                expected = "every class in at least one label"
                problems.append(Problem(str(draw or root), f"class {name}", found, expected, fix))
    if len(labelled) == 1:
        found = f"one labelled case ({labelled[0].id})"
        fix = "Training works, but no validation is claimed: every label teaches and none is left to test on."
        problems.append(Problem(root, "labels", found, "a second one to test on", fix, "warn"))
    return problems
