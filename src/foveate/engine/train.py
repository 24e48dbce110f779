"""``foveate train``: from a folder of scans to a model.

The way from here to the gradient: train -> train_loop -> train_step -> Method.turns -> Task.loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from foveate.batches.prepare import PreparedCohort, prepare_cohort
from foveate.batches.sampler import Sampler
from foveate.cohort.check import CheckReport, check
from foveate.cohort.cohort import Cohort
from foveate.cohort.fingerprint import fingerprint
from foveate.cohort.plan import Plan
from foveate.cohort.split import split_cases
from foveate.config import Config, load_config
from foveate.engine.device import launch, workers
from foveate.engine.fit_plan import explain_out_of_memory, fit_plan, out_of_memory
from foveate.engine.loop import train_loop
from foveate.engine.progress import TrainingProgress
from foveate.engine.recorder import Recorder
from foveate.engine.run import RunFolder
from foveate.engine.schedule import Schedule
from foveate.engine.signals import stop_signals
from foveate.errors import refuse
from foveate.methods import METHODS, Method
from foveate.networks import build_network
from foveate.predict.model_file import save_model
from foveate.predict.predictor import Predictor
from foveate.report.run import write_run_report
from foveate.tasks import Segmentation, build_task
from foveate.text import closest

DEFAULT_MINUTES = 60.0
CLOSING = 0.02  # share of the bound that is kept for the last validation, the model and the report


def train(
    data: str | Path,
    run: str | Path,
    *,
    labelled: str | Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    method: str | None = None,
    network: str | None = None,
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
    neither is given. The other names are those of the command line; ``set`` takes "key=value" strings.

    Returns the run folder. Raises InputError when data, configuration or run folder are not usable, Stopped after
    SIGTERM or SIGINT (with a checkpoint saved), FoveateError for a full disk, too little memory or a loss that is not finite.
    """
    started = time.monotonic()
    with RunFolder(run, resume=resume) as folder, stop_signals() as stop:
        base = folder.config() if folder.resumed else None
        settings = load_config(
            Path(config) if config else None,
            set,
            base=base,
            minutes=minutes,
            steps=steps,
            method=method,
            network=network,
            seed=seed,
            device=device,
        )
        if settings.minutes is None and settings.steps is None:
            settings.minutes = DEFAULT_MINUTES
        kind = method_class(settings)
        report = check(data, labelled=labelled)
        report.raise_if_refused()
        fabric = launch(settings)
        plan = settle_plan(folder, fabric, report, settings)
        with TrainingProgress(quiet=quiet) as progress:
            for problem in report.problems:
                progress.note(f"{problem.severity}: {problem}")
            cohort = report.cohort
            split = split_cases(cohort, settings.seed, settings.validation)
            for note in split.notes:
                progress.note(note)
            prepared = prepare(folder, cohort, plan, settings, progress)
            task, training = assemble(fabric, plan, settings, kind)
            optimisers = {
                name: torch.optim.AdamW(
                    player.parameters(),
                    lr=settings.optimiser.learning_rate,
                    weight_decay=settings.optimiser.weight_decay,
                )
                for name, player in training.players().items()
            }
            seconds = settings.minutes * 60 * (1 - CLOSING) if settings.minutes else None
            schedule = Schedule(settings.steps, seconds, spent=time.monotonic() - started)
            sampler = Sampler(
                prepared,
                plan,
                settings.augment,
                split.train,
                [case.id for case in cohort.unlabelled],
                settings.seed,
                fabric.device,
            )
            predictor = Predictor(training.average, task, plan, device=fabric.device, precision=settings.precision)
            score = Validation(predictor, task, prepared, split.validation)
            recorder = Recorder(
                folder,
                schedule,
                training,
                optimisers,
                progress,
                stop,
                settings.checkpoint_seconds,
                score if split.validation else None,
            )
            checkpoint = folder.restore()
            if checkpoint:
                recorder.restore(checkpoint[1])
                progress.note(f"Continuing from step {checkpoint[0]}.")
            try:
                train_loop(fabric, training, optimisers, sampler, schedule, settings.optimiser, recorder)
            except RuntimeError as error:
                if out_of_memory(error):
                    raise explain_out_of_memory(fabric, plan, settings.network) from error
                raise
            recorder.log()
            recorder.save()
            save_model(folder.path / "model", settings.network, plan, training.average.state_dict())
            write_run_report(folder, predictor, prepared, split, report)
    return folder.path


def method_class(settings: Config) -> type[Method]:
    """The class of ``settings.method.name``. Raises InputError with the nearest name for an unknown one."""
    name = settings.method.name
    if name not in METHODS:
        raise refuse("configuration", "method.name", name, f"one of {', '.join(METHODS)}", closest(name, METHODS))
    return METHODS[name]


def settle_plan(folder: RunFolder, fabric: Fabric, report: CheckReport, settings: Config) -> Plan:
    """The plan of the run that is continued, the plan.json that was put into the folder, or a new one that fits."""
    data = {case: {"image": facts.sha256, "label": facts.label_sha256} for case, facts in report.facts.items()}
    if folder.resumed:
        plan = folder.plan()
        folder.verify(config=settings, plan=plan, data=data)
        return plan
    if (folder.path / "plan.json").exists():
        plan = folder.plan()
    else:
        plan = fit_plan(fabric, report.cohort, fingerprint(report), settings)
    folder.begin(settings, plan, data, device=str(fabric.device), precision=fabric._precision.precision)
    return plan


def prepare(
    folder: RunFolder, cohort: Cohort, plan: Plan, settings: Config, progress: TrainingProgress
) -> PreparedCohort:
    """Every scan, prepared and cached in the run folder, or in ``settings.cache`` to share it between runs."""
    cache = Path(settings.cache) if settings.cache else folder.path / "prepared"
    return prepare_cohort(cohort, plan, cache, workers(), progress.preparing)


def assemble(fabric: Fabric, plan: Plan, settings: Config, kind: type[Method]) -> tuple[Segmentation, Method]:
    """The task and the method around a fresh network whose weights follow from the seed alone."""
    task = build_task(plan)
    torch.manual_seed(settings.seed)
    network = build_network(settings.network, plan, task.channels)
    return task, kind(network, task, settings.method, settings.optimiser.ema).to(fabric.device)


class Validation:
    """Mean Dice of the averaged weights on held-back cases, on the prepared grid; it is shown and chooses nothing."""

    def __init__(
        self, predictor: Predictor, task: Segmentation, prepared: PreparedCohort, cases: Iterable[str]
    ) -> None:
        self.predictor, self.task, self.prepared, self.cases = predictor, task, prepared, list(cases)

    def __call__(self) -> float:
        scores = []
        for name in self.cases:
            case = self.prepared[name]
            predicted = self.predictor.predict_prepared(torch.from_numpy(np.array(case.image)).float())
            label = torch.from_numpy(np.array(case.label))[None]
            scores.append(self.task.score(predicted[None].cpu(), label))
        mean = float(torch.stack(scores).nanmean(0).nanmean())
        return mean if math.isfinite(mean) else 0.0
