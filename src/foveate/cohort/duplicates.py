"""The same image twice: within a cohort, and among the scans that are there to test on."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from foveate.cohort.cohort import Case, Cohort
from foveate.cohort.facts import Facts, file_hash
from foveate.errors import Problem, Severity
from foveate.io import case_stem, image_suffix


def duplicates_of(cohort: Cohort, facts: Facts) -> tuple[set[str], list[Problem]]:
    """Cases to drop because another one has the same image, and what to say about them."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cohort.cases:
        if case.id in facts:
            groups[facts[case.id].content].append(case)
    dropped: set[str] = set()
    problems = []
    for cases in (group for group in groups.values() if len(group) > 1):
        cases.sort(key=lambda case: not case.labelled)  # stable: the first labelled case is kept
        kept = cases[0]
        for case in cases[1:]:
            severity: Severity = "warn"
            found = f"the same image as case {kept.id}"
            fix = f"{case.id} is left out."
            if case.labelled and facts[case.id].label_content != facts[kept.id].label_content:
                severity = "refuse"
                found += ", with another label"
                fix = "Find out which label is right and remove the other case."
            problems.append(Problem(str(case.images[0]), "content", found, "each image once", fix, severity, case.id))
            dropped.add(case.id)
    return dropped, problems


def also_in_test(cohort: Cohort, facts: Facts) -> list[Problem]:
    """Training cases whose very files lie in imagesTs too: a score on those would be a score on training data."""
    folder = cohort.root / "imagesTs"
    if not folder.is_dir():
        return []
    tests: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if image_suffix(path) and not path.name.startswith("._"):
            tests[re.sub(r"_\d{4}$", "", case_stem(path))].append(path)
    # Only files of equal size can be equal: the others are not read.
    sizes = {sum(path.stat().st_size for path in case.images) for case in cohort.cases if case.id in facts}
    same = {facts[case.id].sha256: case.id for case in cohort.cases if case.id in facts}
    problems = []
    for files in tests.values():
        if sum(path.stat().st_size for path in files) in sizes and (case := same.get(file_hash(files))):
            fix = "Remove it from one of the two folders."
            found = f"the same content as training case {case}"
            problems.append(Problem(str(files[0]), "content", found, "test scans that do not train", fix, case=case))
    return problems
