"""``foveate train``: from a folder of scans to a model.

The way from here to the gradient: train -> train_loop -> train_step -> Method.turns -> Task.loss.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from foveate.batches.prepare import prepare_cohort
from foveate.batches.sampler import Sampler
from foveate.cohort.check import CheckReport, check
from foveate.cohort.fingerprint import fingerprint
from foveate.cohort.plan import Plan
from foveate.cohort.planning import make_plan
from foveate.cohort.split import split_cases
from foveate.config import Config, MethodConfig, load_config
from foveate.engine.device import launch, workers
from foveate.engine.fit_plan import budget, explain_out_of_memory, fit_plan, out_of_memory
from foveate.engine.labelling import Labelling
from foveate.engine.loop import train_loop
from foveate.engine.progress import TrainingProgress
from foveate.engine.recorder import Recorder
from foveate.engine.run import RunFolder
from foveate.engine.schedule import Schedule
from foveate.engine.signals import stop_signals
from foveate.engine.validation import Validation
from foveate.engine.warm_start import plan_like, read_start, record_of, refuse_unlike, start_from
from foveate.errors import refuse
from foveate.methods import METHODS, Method
from foveate.networks import build_network
from foveate.predict.model_file import SavedModel, save_model
from foveate.predict.predictor import Predictor
from foveate.report.run import write_run_report
from foveate.tasks import build_task
from foveate.text import closest

DEFAULT_MINUTES = 60.0
CLOSING = 0.02  # share of the bound that is kept for the model and the report


def train(
    data: str | Path,
    run: str | Path,
    *,
    labelled: str | Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    method: str | None = None,
    network: str | None = None,
    init: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    config: str | Path | None = None,
    set: Iterable[str] = (),
    resume: bool = False,
    quiet: bool = False,
) -> Path:
    """Train a model on the scans of ``data`` and leave it, with its records, in the folder ``run``.

    data: dataset folder (nnU-Net raw, MSD, or images/ + labels/). labelled: file with one case id a line; only these
    cases' labels are opened. minutes, steps: bound on the whole command, or on the training steps; 60 minutes if
    neither is given. init: run or model folder whose weights training starts from. The other names are those of the
    command line; ``set`` takes "key=value" strings.

    Returns the run folder. Raises InputError when data, configuration or run folder are not usable, Stopped after
    SIGTERM or SIGINT (with a checkpoint saved), FoveateError for a full disk, too little memory or a loss that is
    not finite.
    """
    started = time.monotonic()
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
            method=method,
            network=network,
            init=str(init) if init is not None else None,
            seed=seed,
            device=device,
        )
        if settings.minutes is None and settings.steps is None:
            settings.minutes = DEFAULT_MINUTES
        kind = method_class(settings)
        start = read_start(settings.init) if settings.init and not folder.resumed else None
        keep = settings.unlabelled_outliers == "keep"
        report = check(data, labelled=labelled, needs_labels=kind.learns_labels, keep_outliers=keep)
        report.raise_if_refused()
        fabric = launch(settings)
        if kind.uses_unlabelled and kind.learns_labels and not report.cohort.unlabelled:
            refuse_method_without_unlabelled(settings, report)
        plan = settle_plan(folder, fabric, report, settings, start)
        cohort, split = report.cohort, split_cases(report.cohort, settings.seed, settings.validation)
        if not kind.learns_labels:
            cohort, split = cohort.keep_labels(()), split.without_labels()
        for note in [*report.problems, *split.notes]:
            progress.note(str(note))
        if kind.uses_unlabelled and not split.unlabelled:
            progress.note(f"There are no unlabelled scans, so {settings.method.name} trains as supervised does.")

        def prepared_one(done: int, cases: int) -> None:
            progress.counting("scans prepared", done, cases)
            if stop.requested:
                raise stop.stopped(0)

        cache = Path(settings.cache) if settings.cache else folder.path / "prepared"
        prepared = prepare_cohort(cohort, plan, cache, workers(), prepared_one)
        learner = assemble(fabric, plan, settings, kind)
        seconds = settings.minutes * 60 * (1 - CLOSING) if settings.minutes else None
        schedule = Schedule(settings.steps, seconds, spent=time.monotonic() - started)
        sampler = Sampler(prepared, plan, settings.augment, split, settings.seed, fabric.device)
        predictor = Predictor(learner.average, learner.task, plan, device=fabric.device, precision=settings.precision)
        validate = Validation(predictor, prepared, split.validation) if split.validation else None
        labelling = Labelling(folder.path / "pseudo", predictor, prepared, sampler, learner, schedule)
        recorder = Recorder(folder, schedule, learner, progress, stop, settings, labelling, validate)
        if checkpoint := folder.restore():
            recorder.restore(checkpoint[1])
            progress.note(f"Continuing from step {checkpoint[0]}.")
        elif settings.init:  # a run that was stopped before its first checkpoint starts once more
            start = start or read_start(settings.init, folder.provenance().get("init"))
            progress.note(start_from(start, learner, plan))
        try:
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
        except RuntimeError as error:
            if out_of_memory(error):
                raise explain_out_of_memory(fabric, plan, settings.network) from error
            raise
        recorder.finish()
        task = {"name": "segmentation" if kind.learns_labels else "reconstruction"}
        save_model(folder.path / "model", settings.network, task, plan, learner.model())
        write_run_report(folder.path, plan, predictor if kind.learns_labels else None, prepared, split)
    return folder.path


def method_class(settings: Config) -> type[Method]:
    """The class of ``settings.method.name``. Raises InputError with the nearest name for an unknown one."""
    name = settings.method.name
    if name not in METHODS:
        raise refuse("configuration", "method.name", name, f"one of {', '.join(METHODS)}", closest(name, METHODS))
    return METHODS[name]


def refuse_method_without_unlabelled(settings: Config, report: CheckReport) -> None:
    """Raise InputError for a method that was asked for and has nothing to work on; the default does without."""
    if settings.method.name == MethodConfig().name:
        return
    cohort = report.cohort
    aside = sum(problem.severity == "aside" for problem in report.problems)
    found = f"{settings.method.name}, and {len(cohort.labelled)} scans that all have a label"
    found += f" ({aside} more are set aside: see foveate check)" if aside else ""
    fix = "Use --method supervised, or add scans without labels."
    raise refuse(cohort.root, "method.name", found, "unlabelled scans, which this method learns from", fix)


def settle_plan(
    folder: RunFolder, fabric: Fabric, report: CheckReport, settings: Config, start: SavedModel | None = None
) -> Plan:
    """The plan of the run that is continued, the plan.json that was put into the folder, or a new one that fits.

    start: the model whose weights the run begins with; a new plan takes voxel size, patch and network from it.
    Raises InputError when its weights do not fit.
    """
    data = {case: {"image": facts.sha256, "label": facts.label_sha256} for case, facts in report.facts.items()}
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
    folder.begin(settings, plan, data, **more)
    return plan


def new_plan(fabric: Fabric, report: CheckReport, settings: Config, start: SavedModel | None) -> Plan:
    """A plan for the cohort: like that of ``start`` where the images are of one kind, else one that fits the device."""
    facts = fingerprint(report)
    if start:
        plan = plan_like(make_plan(report.cohort, facts, budget(fabric), settings.augment.mirror), start.plan)
        if plan:
            return plan
    return fit_plan(fabric, report.cohort, facts, settings)


def assemble(fabric: Fabric, plan: Plan, settings: Config, kind: type[Method]) -> Method:
    """The method around a fresh network whose weights follow from the seed alone."""
    task = build_task(plan)
    torch.manual_seed(settings.seed)

    def build(name: str = settings.network.name) -> nn.Module:
        return build_network(settings.network.model_copy(update={"name": name}), plan, task.channels)

    return kind(build(), task, settings.method, settings.optimiser.ema, build).to(fabric.device)
