"""Who trains, who is scored, and dataset folders of each: a scored case never lies where training looks."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from foveate.cohort.cohort import IGNORE, Case, Cohort
from foveate.cohort.layouts import find_cohort, read_ids
from foveate.cohort.missing import missing_modalities
from foveate.cohort.tree import leaf_classes
from foveate.errors import InputError, Problem, refuse
from foveate.files import write_atomic
from foveate.io import image_suffix, read_label
from foveate.metrics.overlap import values_present
from foveate.text import closest

Classes = Mapping[str, int | tuple[int, ...]]


@dataclass
class Pools:
    """The cohort of a benchmark in two parts without a common patient.

    train: cases that may train, with and without a label. scored: cases whose labels are for scoring alone. Labels are
    opened when somebody asks what they show; those of ``scored`` for nothing but whether each class is in one of them.
    """

    train: Cohort
    scored: Cohort
    _values: dict[str, frozenset[int]] = field(default_factory=dict)

    @property
    def classes(self) -> Classes:
        return leaf_classes(self.train.classes, self.train.tree)

    def values(self, case: Case) -> frozenset[int]:
        """The values of a case's label, those without information left out."""
        if case.id not in self._values:
            assert case.label is not None
            found = values_present(read_label(case.label).array)
            self._values[case.id] = frozenset(found) - {0, IGNORE, self.train.ignore}
        return self._values[case.id]

    def shows(self, case: Case) -> frozenset[str]:
        """The classes that a case's label shows."""
        values = self.values(case)
        members = {name: {value} if isinstance(value, int) else set(value) for name, value in self.classes.items()}
        return frozenset(name for name, wanted in members.items() if values & wanted)

    def refuse_unscored(self) -> None:
        """Raises InputError where a class is in no scored case: a wrong prediction of it alone would have a score."""
        if absent := sorted(set(self.classes).difference(*map(self.shows, self.scored.cases))):
            found, fix = f"no scored case with {', '.join(absent)}", "Add such cases, or leave it out of --classes."
            raise refuse(self.scored.root, "labels of --score", found, "every class in one of them", fix)


def read_pools(data: Path, score: Path, without: Path | None = None, classes: Classes | None = None) -> Pools:
    """The cases of ``data`` in their two pools.

    score, without: files with case ids that are scored and never trained on, and that are left out altogether.
    classes: names of the label values, where no dataset.json gives them.

    Raises InputError listing all of these: ids that are no case, scored cases without a label or in both files, a
    patient with scans on both sides, and what was wrong with the dataset's folder; and a dataset of another task.
    """
    cohort = find_cohort(data)
    if cohort.task != "segmentation":
        fix = "Methods are compared by the Dice of label maps: give a dataset that has them."
        raise refuse(data, "task", cohort.task, "segmentation", fix)
    problems = [problem for problem in cohort.problems if problem.severity == "refuse"]
    cases = {case.id: case for case in cohort.cases}
    scored, absent = read_ids(score), read_ids(without) if without else []
    fix = "Add the files, or leave these cases out with --without: methods are compared on all modalities."
    used = cohort.only(set(cases) - set(absent))
    problems += [replace(problem, fix=fix) for problem in missing_modalities(used, allowed=False)]
    for source, ids in ((score, scored), (without, absent)):
        for name in ids:
            if name not in cases:
                problems.append(Problem(str(source), "case id", repr(name), f"a case of {data}", closest(name, cases)))
    for name in scored:
        if name in cases and cases[name].label is None:
            fix = "Remove the line, or add the label file."
            problems.append(Problem(str(score), "case id", f"{name!r}, which has no label", "a labelled case", fix))
        if name in absent:
            expected = f"a case that {without} does not leave out"
            problems.append(Problem(str(score), "case id", repr(name), expected, "Take it out of one of the two."))
    rest = set(cases) - set(scored) - set(absent)
    patients = {cases[name].patient for name in scored if name in cases}
    if both := sorted(name for name in rest if cases[name].patient in patients):
        found = f"patients who have scans that train, too: {', '.join(both[:5])}"
        fix = "List these scans as well, or leave them out with --without."
        problems.append(Problem(str(score), "patients", found, "no patient on both sides", fix))
    if problems:
        raise InputError(problems)
    if classes:
        cohort = replace(cohort, classes=dict(classes))
    pools = Pools(cohort.only(rest), cohort.only(scored))
    return pools if cohort.classes else _name_classes(pools)


def _name_classes(pools: Pools) -> Pools:
    """Nothing names the classes: they are the values of the training labels, as in ``foveate check``."""
    with ThreadPoolExecutor() as pool:
        values = sorted(frozenset().union(*pool.map(pools.values, pools.train.labelled)))
    if not values or values[0] < 0 or values[-1] > IGNORE:
        found = f"values {', '.join(map(str, values)) or '- none'}"
        raise refuse(pools.train.root, "label values", found, "1 to 254", "Name the classes in dataset.json.")
    named: dict[str, int | tuple[int, ...]] = {f"class {value}": value for value in values}
    return Pools(replace(pools.train, classes=named), replace(pools.scored, classes=named), pools._values)


def write_dataset(cohort: Cohort, target: Path) -> None:
    """Lay a cohort's cases out in the plain layout: images/, labels/, dataset.json and, where needed, patients.csv.

    Files are hard links where possible, else copies. What does not belong is removed. Only for one process at a time.
    """
    if series := [image for case in cohort.cases for image in case.images if image.is_dir()]:
        raise refuse(series[0], "image", "a folder of a DICOM series", "image files", "Convert the series to NIfTI.")
    wanted: dict[Path, Path] = {}
    for case in cohort.cases:
        for number, image in enumerate(case.images):
            channel = f"_{number:04d}" if len(case.images) > 1 else ""
            wanted[target / "images" / f"{case.id}{channel}{image_suffix(image)}"] = image
        if case.label is not None:
            wanted[target / "labels" / f"{case.id}{image_suffix(case.label)}"] = case.label
    for part in ("images", "labels"):
        (target / part).mkdir(parents=True, exist_ok=True)
        for file in set((target / part).iterdir()) - wanted.keys():
            file.unlink()
    for file, source in wanted.items():
        _place(source.resolve(), file)
    ignore = {"ignore": cohort.ignore} if cohort.ignore is not None else {}
    about: dict[str, object] = {"labels": {"background": 0, **cohort.classes, **ignore}}
    if cohort.tree:
        about["tree"] = cohort.tree
    if cohort.channels:
        about["channel_names"] = {str(number): name for number, name in enumerate(cohort.channels)}
    write_atomic(target / "dataset.json", json.dumps(about) + "\n")
    _write_patients(cohort.cases, target / "patients.csv")


def _place(source: Path, target: Path) -> None:
    if target.exists():
        if _same(source, target):
            return
        target.unlink()
    try:
        os.link(source, target)
    except OSError:
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copy2(source, temporary)  # keeps the time of change, by which a newer source is noticed
        temporary.replace(target)


def _same(source: Path, target: Path) -> bool:
    one, other = source.stat(), target.stat()
    return os.path.samestat(one, other) or (one.st_size, int(one.st_mtime)) == (other.st_size, int(other.st_mtime))


def _write_patients(cases: Sequence[Case], path: Path) -> None:
    if all(case.patient == case.id for case in cases):
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("case", "patient"), *((c.id, c.patient) for c in cases)])
    write_atomic(path, text.getvalue())


def write_ids(path: Path, ids: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "\n".join(ids) + "\n")
