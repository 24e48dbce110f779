"""What a training is told, settled before anything is read for long: task, method, pre-training, and what they need.

Everything here answers from the configuration and the check of the dataset, and refuses what cannot work together.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foveate.cohort.box_table import BOXES, MASKS, MOST
from foveate.cohort.check import CheckReport
from foveate.cohort.cohort import Cohort
from foveate.cohort.layouts import task_of
from foveate.config import Config, PretrainConfig
from foveate.errors import InputError, Problem, refuse
from foveate.methods import METHODS, PRETRAINING, Method, Supervised, default_method
from foveate.networks import settle_network
from foveate.text import closest


def method_class(settings: Config) -> type[Method]:
    """The class of ``settings.method.name``. Raises InputError with the nearest name for an unknown one.

    Until ``settle_method`` has chosen one, the baseline stands for it: it needs no more than any other it may choose.
    """
    name = settings.method.name
    if name is None:
        return Supervised
    if name not in METHODS:
        raise refuse("configuration", "method.name", name, f"one of {', '.join(METHODS)}", closest(name, METHODS))
    return METHODS[name]


def settle_task(settings: Config, data: str | Path) -> Config:
    """The settings with the task that the dataset says, and the task's network where none was asked for.

    Raises InputError when the layout, the method or the network does not fit the task.
    """
    task, kind = task_of(data, settings.task), method_class(settings)
    network = settle_network(settings.network, task)
    for asked in [
        kind,
        *([METHODS[PRETRAINING[settings.pretrain.name]]] if settings.pretrain.name in PRETRAINING else []),
    ]:
        if task not in asked.tasks:
            able = [name for name, method in METHODS.items() if task in method.tasks]
            found = f"{next(name for name, method in METHODS.items() if method is asked)}, which {asked.reason}"
            fix = "Choose one of these, or leave it out."
            raise refuse("configuration", "method.name", found, f"a method for {task}: {', '.join(able)}", fix)
    return settings.model_copy(update={"task": task, "network": network})


def settle_method(settings: Config, cohort: Cohort, note: Callable[[str], None]) -> Config:
    """The settings with the method that serves ``cohort`` best where none was asked for; another than the baseline is
    noted."""
    if settings.method.name is not None:
        return settings
    labelled, unlabelled = len(cohort.labelled), len(cohort.unlabelled)
    name = default_method(cohort.task, labelled, unlabelled)
    if METHODS[name] is not Supervised:
        note(f"Method: {name}, as {labelled} of {labelled + unlabelled} images have labels. --method takes another.")
    return settings.model_copy(update={"method": settings.method.model_copy(update={"name": name})})


def say_ignored(settings: Config, note: Callable[[str], None]) -> None:
    """Note the options of methods that were given and that this one, and pre-training before it, make nothing of."""
    asked = [method_class(settings), *filter(None, [METHODS.get(PRETRAINING.get(settings.pretrain.name or "", ""))])]
    known = {"name", *(option for kind in asked for option in kind.options)}
    default = type(settings.method)()
    for key in type(settings.method).model_fields:
        value = getattr(settings.method, key)
        if key not in known and value != getattr(default, key):
            note(f"method.{key}={value} is not used: it means nothing to {settings.method.name}.")


def pretraining(settings: Config, cache: Path) -> Config:
    """What the pre-training within a run is told, with its share of the bound.

    Raises InputError for a name that is none, and for what it cannot be combined with.
    """
    name, share = settings.pretrain.name, settings.pretrain.share
    if name not in PRETRAINING:
        found, known = str(name), f"one of {', '.join(PRETRAINING)}"
        raise refuse("configuration", "pretrain.name", found, known, closest(found, PRETRAINING))
    if settings.init:
        fix = "Give one of --init and --pretrain."
        raise refuse("configuration", "pretrain", f"{name}, and init {settings.init}", "weights of one origin", fix)
    if not method_class(settings).learns_labels:
        fix = "Give --method alone, or --pretrain with a method that learns from labels."
        raise refuse("configuration", "pretrain", f"{name}, before {settings.method.name}", "one pre-training", fix)
    if settings.steps is not None and settings.steps < 2:
        raise refuse("configuration", "steps", settings.steps, "at least 2, for one each", "Give more --steps.")
    steps = min(max(round(settings.steps * share), 1), settings.steps - 1) if settings.steps else None
    return settings.model_copy(
        update={
            "steps": steps,
            "minutes": settings.minutes * share if settings.minutes else None,
            "method": settings.method.model_copy(update={"name": PRETRAINING[name]}),
            "pretrain": PretrainConfig(),
            "cache": settings.cache or str(cache),
        }
    )


def refuse_method_without_unlabelled(settings: Config, report: CheckReport) -> None:
    """Raise InputError for a method that has nothing to work on."""
    cohort = report.cohort
    aside = sum(problem.severity == "aside" for problem in report.problems)
    found = f"{settings.method.name}, and {len(cohort.labelled)} scans that all have a label"
    found += f" ({aside} more are set aside: see foveate check)" if aside else ""
    fix = "Use --method supervised, or add scans without labels."
    raise refuse(cohort.root, "method.name", found, "unlabelled scans, which this method learns from", fix)


def refuse_without_boxes(settings: Config, report: CheckReport) -> None:
    """Raise InputError that lists what a method that learns from boxes lacks."""
    cohort, name = report.cohort, settings.method.name
    problems = []
    if not any(case.boxes for case in cohort.unlabelled):
        found = "boxes of labelled cases alone" if any(case.boxes for case in cohort.cases) else "no case with a box"
        fix = "Write the boxes, or name those whose labels may be used with --labelled."
        problems.append(Problem(str(cohort.root / BOXES), "boxes", found, f"images with boxes, for {name}", fix))
    if settings.method.critic_weight and not (cohort.labelled or cohort.masks):
        fix = "Put masks of other scans there, or train without the critic: --set method.critic_weight=0."
        expected = "masks that show the critic what shapes look like"
        problems.append(Problem(str(cohort.root / MASKS), "masks", "none, and no label", expected, fix))
    if settings.method.paired_masks and not cohort.labelled:
        fix = "Leave method.paired_masks out."
        problems.append(Problem(str(cohort.root), "method.paired_masks", "true, and no label", "labelled cases", fix))
    if not 0 < len(cohort.classes) <= MOST or cohort.tree:
        found = "a label tree" if cohort.tree else f"{len(cohort.classes)} classes"
        fix = "Name the classes that have boxes in dataset.json, and no more."
        problems.append(Problem(str(cohort.root), "classes", found, f"1 to {MOST}, without a tree, for {name}", fix))
    if problems:
        raise InputError(problems)
