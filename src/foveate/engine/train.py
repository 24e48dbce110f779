"""``foveate train``: from a folder of scans to a model.

The way from here to the gradient: train -> fit -> train_loop -> train_step -> Method.turns -> Task.loss.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from foveate.batches.cache import PreparedCase, PreparedCohort
from foveate.batches.filled_boxes import prepare_boxes, prepare_masks
from foveate.batches.prepare import prepare_cohort
from foveate.batches.sampler import Sampler
from foveate.cohort.check import CheckReport, check
from foveate.cohort.fingerprint import fingerprint
from foveate.cohort.plan import Plan
from foveate.cohort.planning import make_plan
from foveate.cohort.split import split_cases
from foveate.config import Config, load_config
from foveate.engine.attention import attention_view
from foveate.engine.clock import CLOCKS
from foveate.engine.device import launch, workers
from foveate.engine.fit_plan import budget, explain_out_of_memory, fit_plan, out_of_memory
from foveate.engine.labelling import Labelling
from foveate.engine.lesson import Lesson, lesson_of
from foveate.engine.loop import train_loop
from foveate.engine.progress import TrainingProgress
from foveate.engine.recorder import Recorder, build_optimisers
from foveate.engine.run import Hashes, RunFolder
from foveate.engine.schedule import Schedule
from foveate.engine.settle import (
    method_class,
    pretraining,
    refuse_method_without_unlabelled,
    refuse_without_boxes,
    say_ignored,
    settle_method,
    settle_task,
)
from foveate.engine.signals import StopSignals, stop_signals
from foveate.engine.validation import FreeEnergyGap, WholeValidation, case_errors, validation
from foveate.engine.warm_start import plan_like, read_start, record_of, refuse_unlike, start_from
from foveate.errors import FoveateError, refuse
from foveate.methods import DeepBelief, Method
from foveate.methods.method import ENOUGH
from foveate.networks import build_network, network_class
from foveate.predict.model_file import DESCRIPTION, SavedModel, save_model
from foveate.predict.pieces import of_one_piece
from foveate.predict.predictor import build_predictor
from foveate.report.run import pictured, write_run_report
from foveate.tasks import Segmentation, build_task

DEFAULT_MINUTES = 60.0
CLOSING = 0.02  # share of the bound that is kept for the model and the report


def train(
    data: str | Path,
    run: str | Path,
    *,
    labelled: str | Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    task: str | None = None,
    method: str | None = None,
    network: str | None = None,
    init: str | Path | None = None,
    pretrain: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    config: str | Path | None = None,
    set: Iterable[str] = (),
    resume: bool = False,
    quiet: bool = False,
) -> Path:
    """Train a model on the scans of ``data`` and leave it, with its records, in the folder ``run``.

    data: dataset folder (nnU-Net raw, MSD, images/ + labels/, class folders, or images/ + labels.csv). labelled: file
    with one case id a line; only these cases' labels are opened. minutes, steps: bound on the whole command, or on the
    training steps; 60 minutes if neither is given. task: what is predicted, where the layout leaves it open. init: run
    or model folder whose weights training starts from. pretrain: ``dbn`` or ``masked_autoencoder``, which takes a share
    of the bound first. The other names are those of the command line; ``set`` takes "key=value" strings.

    Returns the run folder. Raises InputError when data, configuration or run folder are not usable, Stopped after
    SIGTERM, SIGINT or SIGHUP (with a checkpoint saved), FoveateError for a full disk, too little memory or a loss that
    is not finite.
    """
    begun = {name: now() for name, now in CLOCKS.items()}
    with (
        RunFolder(run, resume=resume) as folder,
        stop_signals() as stop,
        TrainingProgress(quiet=quiet) as progress,
    ):
        settings = load_config(
            Path(config) if config else None,
            set,
            base=folder.config() if folder.resumed else None,
            minutes=minutes,
            steps=steps,
            task=task,
            method=method,
            network=network,
            init=str(init) if init is not None else None,
            pretrain=pretrain,
            seed=seed,
            device=device,
        )
        if settings.minutes is None and settings.steps is None:
            settings.minutes = DEFAULT_MINUTES
        settings = settle_task(settings, data)
        kind = method_class(settings)
        if kind.learns_boxes:
            settings.network = settings.network.model_copy(update={"boxes": True})
        first = pretraining(settings, folder.path / "prepared") if settings.pretrain.name else None
        model = read_start(settings.init) if settings.init and not folder.resumed else None
        report = usable(data, labelled, settings, kind)
        settings = settle_method(settings, report.cohort, progress.note)
        say_ignored(settings, progress.note)
        fabric = launch(settings)
        plan = settle_plan(folder, fabric, report, [*([first] if first else []), settings], model)
        here = Session(fabric, report, plan, stop, progress)
        start: Callable[[], SavedModel] | None = None
        if settings.init:
            start = partial(read_start, settings.init, folder.provenance().get("init"))
        elif first and not folder.checkpoints.steps():
            start = partial(read_start, str(pretrain_first(here, folder, first, begun[settings.clock])))
        fit(here, folder, settings, schedule_of(settings, begun[settings.clock], first), start)
    return folder.path


def usable(data: str | Path, labelled: str | Path | None, settings: Config, kind: type[Method]) -> CheckReport:
    """What the check says of ``data``. Raises InputError where ``kind`` cannot be trained on it."""
    report = check(
        data,
        labelled=labelled,
        needs_labels=kind.learns_labels and not kind.learns_boxes,
        keep_outliers=settings.unlabelled_outliers == "keep",
        takes_missing=network_class(settings.network).takes_missing,
        task=settings.task,
    )
    report.raise_if_refused()
    if kind.learns_boxes:
        refuse_without_boxes(settings, report)
    if kind.uses_unlabelled and kind.learns_labels and not report.cohort.unlabelled:
        refuse_method_without_unlabelled(settings, report)
    return report


@dataclass(frozen=True)
class Session:
    """What the trainings of one command share."""

    fabric: Fabric
    report: CheckReport
    plan: Plan
    stop: StopSignals
    progress: TrainingProgress


def fit(
    here: Session,
    folder: RunFolder,
    settings: Config,
    schedule: Schedule,
    start: Callable[[], SavedModel] | None = None,
) -> None:
    """Train by ``settings``, whose bound is the schedule's, and leave model and report in ``folder``.

    start: reads the weights to start from, where there is no checkpoint.
    """
    kind, fabric, plan, progress = method_class(settings), here.fabric, here.plan, here.progress
    lesson = lesson_of(here.report.cohort, settings, kind)
    split = lesson.split
    for note in [*here.report.notes(), *split.notes]:
        progress.note(note)
    if kind.uses_unlabelled and not split.unlabelled:
        progress.note(f"There are no unlabelled scans, so {settings.method.name} trains as supervised does.")
    learner = assemble(fabric, plan, settings, kind)  # before the scans are prepared: it may refuse the plan
    cache = Path(settings.cache) if settings.cache else folder.path / "prepared"
    saved = max(folder.checkpoints.steps(), default=0)
    prepared, sampler = prepare(here, lesson, settings, kind, cache, saved)
    if settings.pieces == "auto" and kind.learns_labels and isinstance(learner.task, Segmentation):
        find_pieces(learner.task, (prepared[name] for name in lesson.donors or split.train), progress)
    predictor = build_predictor(learner.average, learner.task, plan, device=fabric.device, precision=settings.precision)
    validate: Callable[[], dict[str, float]] | None = None
    if split.validation and isinstance(learner, DeepBelief):
        teaching = split.unlabelled
        validate = FreeEnergyGap(learner, schedule, prepared, teaching, split.validation, fabric.device)
    elif split.validation:
        validate = validation(predictor, prepared, split.validation)
    labelling = Labelling(folder.path / "pseudo", predictor, prepared, sampler, learner, schedule)
    recorder = Recorder(folder, schedule, learner, progress, here.stop, settings, labelling, validate)
    if checkpoint := folder.restore():
        recorder.restore(checkpoint[1])
        progress.note(f"Continuing from step {checkpoint[0]}.")
    elif start:  # a run that was stopped before its first checkpoint starts once more
        progress.note(start_from(start(), learner, plan))
    tried = partial(late_step, fabric, settings, kind, sampler)
    try:
        if kind.uses_unlabelled and split.unlabelled and not checkpoint:
            with contextlib.suppress(FoveateError):  # too little memory for unlabelled scans shows now; all else later
                tried(plan)
        train_loop(
            fabric,
            learner,
            recorder.optimisers,
            sampler,
            schedule,
            settings.optimiser,
            after_step=recorder,
            before_step=recorder.before_step,
        )
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise explain_out_of_memory(fabric, plan, tried) from error
        raise
    if split.unlabelled:
        say_if_untaught(learner, progress)
    recorder.finish()
    notes, held = list(split.notes), None  # held: answers for the cases of validation
    if isinstance(validate, WholeValidation):
        held = validate.logits()
        if said := learner.task.fit(held, validate.labels):
            progress.note(said)
            notes.append(said)
    task = learner.task.description() if kind.learns_labels else {"name": "reconstruction"}
    save_model(folder.path / "model", settings.network, task, plan, learner.model())
    if not kind.learns_labels:
        write_run_report(folder.path, plan, None, prepared, split, [], notes)
        return
    shown = pictured(split, case_errors(validate))
    attention = attention_view(predictor, prepared, shown, progress.note)
    write_run_report(folder.path, plan, predictor, prepared, split, shown, notes, held, attention)


def prepare(
    here: Session, lesson: Lesson, settings: Config, kind: type[Method], cache: Path, saved: int = 0
) -> tuple[PreparedCohort, Sampler]:
    """The lesson's cases as the plan has them, in ``cache``, and what draws batches from them.

    saved: the step from which the run goes on if it is stopped meanwhile.
    """

    def prepared_one(done: int, cases: int) -> None:
        here.progress.counting("scans prepared", done, cases)
        if here.stop.requested:
            raise here.stop.stopped(saved)

    plan, device = here.plan, here.fabric.device
    prepared = prepare_cohort(lesson.cohort, plan, cache, workers(), prepared_one)
    boxes, masks = dict[str, PreparedCase](), dict[str, PreparedCase]()
    if kind.learns_boxes:
        boxes = prepare_boxes(lesson.cohort, plan, prepared, cache)
        masks = prepare_masks(lesson.cohort.masks, [prepared[name] for name in lesson.donors], plan, cache)
    takes_missing = network_class(settings.network).takes_missing
    split, augment = lesson.split, lesson.augment
    return prepared, Sampler(prepared, plan, augment, split, settings.seed, device, takes_missing, boxes, masks)


def say_if_untaught(method: Method, progress: TrainingProgress) -> None:
    """Tell the person who trains that unlabelled scans, which are there, have waited to the end."""
    if method.uses_unlabelled and method.begins > 1:
        progress.note(
            "The unlabelled scans have taught nothing: they wait until every place of the labelled ones has been shown "
            f"{ENOUGH} times, and it was {method.views:.0f}. Train longer, or say when by --set method.start=0.5."
        )


def late_step(fabric: Fabric, settings: Config, kind: type[Method], sampler: Sampler, plan: Plan) -> None:
    """One of the steps of such a training by another plan that hold most: with unlabelled scans, and the optimisers'
    moments. Its weights are thrown away, and random numbers go on as if it had not been."""
    at_once = settings.model_copy(update={"method": settings.method.model_copy(update={"start": 0.0})})
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        method, late = assemble(fabric, plan, at_once, kind), Schedule(steps=100, seconds=None)
        late.step = 99
        optimisers = build_optimisers(method, settings.optimiser)
        train_loop(fabric, method, optimisers, sampler.by(plan), late, settings.optimiser)


def find_pieces(task: Segmentation, cases: Iterable[PreparedCase], progress: TrainingProgress) -> None:
    """Tell the task, and the person who trains, which structures the labels of ``cases`` show in one piece."""
    labels = (case.label for case in cases)
    task.one_piece = of_one_piece((label for label in labels if label is not None), task.classes)
    if task.one_piece:
        said = "In one piece wherever a labelled case shows it, so that predictions keep the largest alone"
        progress.note(f"{said}: {', '.join(task.one_piece)}. For lesions, train with --set pieces=all.")


def pretrain_first(here: Session, folder: RunFolder, first: Config, started: float) -> Path:
    """Pre-train by ``first`` in a run folder within ``folder``, unless that is done; that run folder.

    It goes on from its own checkpoints, and its model, once there, is not made again.
    """
    with RunFolder(folder.path / "pretrained", resume=True) as inner:
        if (inner.path / "model" / DESCRIPTION).exists():
            return inner.path
        if not inner.resumed:
            inner.begin(first, here.plan, folder.provenance()["data"], device=str(here.fabric.device))
        here.progress.note(f"Pre-training: {first.method.name}.")
        fit(here, inner, first, schedule_of(first, started))
    return inner.path


def schedule_of(settings: Config, started: float, before: Config | None = None) -> Schedule:
    """The bound of a training, less that of the training before it; started: when the command was, by its clock.

    Time that the one before did not keep to is lost to this one.
    """
    now = CLOCKS[settings.clock]
    seconds, earlier = (c.minutes * 60 * (1 - CLOSING) if c and c.minutes else 0.0 for c in (settings, before))
    steps = settings.steps - ((before and before.steps) or 0) if settings.steps else None
    spent = max(now() - started - earlier, 0.0)
    return Schedule(steps, seconds - earlier if seconds else None, spent, now)


def settle_plan(
    folder: RunFolder, fabric: Fabric, report: CheckReport, trainings: Sequence[Config], start: SavedModel | None = None
) -> Plan:
    """The plan of the run that is continued, the plan.json that was put into the folder, or a new one that fits.

    trainings: what is trained one after the other, the run itself last. start: the model whose weights the run begins
    with; a new plan takes voxel size, patch and network from it. Raises InputError when its weights do not fit, and
    what any of the trainings would raise when it begins, before the folder is a run and the one before has run.
    """
    settings = trainings[-1]
    data = contents(report, settings.network.boxes)
    if folder.resumed:
        plan = folder.plan()
        folder.verify(config=settings, plan=plan, classes=report.cohort.classes, data=data)
        return plan
    if (folder.path / "plan.json").exists():
        plan = folder.plan()
        for name in ("classes", "tree"):
            found, wanted = getattr(plan, name), getattr(report.cohort, name)
            if dict(found) != dict(wanted):
                fix = "Correct plan.json, or remove it to have a new one made."
                raise refuse(folder.path / "plan.json", name, found, f"that of the dataset, {wanted}", fix)
    else:
        plan = new_plan(fabric, report, settings, start)
    more: dict[str, Any] = {"device": str(fabric.device)}
    if start:
        refuse_unlike(start, plan, settings.network)
        more["init"] = record_of(start)
    for training in trainings:
        split_cases(report.cohort, training.seed, training.validation)
        assemble(fabric, plan, training, method_class(training))
    folder.begin(settings, plan, data, **more)
    return plan


def contents(report: CheckReport, boxes: bool) -> Hashes:
    """What a run is trained on, case by case, so that a continuation can tell whether it is the same. boxes: too."""
    data = {case: {"image": facts.sha256, "label": facts.label_sha256} for case, facts in report.facts.items()}
    # Who shares a patient decides the split. Called by the first of the cases: no person's name is kept.
    patients: dict[str, str] = {}
    for case in report.cohort.cases:
        first = patients.setdefault(case.patient, case.id)
        if first != case.id and case.id in data:
            data[case.id]["patient"] = f"that of {first}"
    if boxes:
        drawn = {case.id: hashlib.sha256(repr(case.boxes).encode()).hexdigest() for case in report.cohort.cases}
        data = {case: {**parts, "boxes": drawn[case]} for case, parts in data.items()}
        data |= {name: {"label": sha256} for name, sha256 in report.masks.items()}
    return data


def new_plan(fabric: Fabric, report: CheckReport, settings: Config, start: SavedModel | None) -> Plan:
    """A plan for the cohort: like that of ``start`` where the images are of one kind, else one that fits the device."""
    facts, plan = fingerprint(report), None
    if start:
        plan = plan_like(make_plan(report.cohort, facts, budget(fabric), settings.augment.mirror), start.plan)
    plan = plan or fit_plan(fabric, report.cohort, facts, settings)
    return plan.model_copy(update={"loss": settings.regression_loss})


def assemble(fabric: Fabric, plan: Plan, settings: Config, kind: type[Method]) -> Method:
    """The method around a fresh network whose weights follow from the seed alone."""
    task = build_task(plan)
    torch.manual_seed(settings.seed)

    def build(name: str = settings.network.name) -> nn.Module:
        return build_network(settings.network.model_copy(update={"name": name}), plan, task.channels)

    return kind(build(), task, settings.method, settings.optimiser.ema, build).to(fabric.device)
