"""A run that goes on from its checkpoint ends bit by bit as one that nothing stopped: players, optimisers, average."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from foveate.batches.cache import PreparedCohort, write_array
from foveate.batches.sampler import Sampler
from foveate.cohort.plan import ChannelPlan, Plan
from foveate.cohort.split import Split
from foveate.config import MethodConfig, NetworkConfig, load_config
from foveate.engine.labelling import Labelling
from foveate.engine.loop import train_loop
from foveate.engine.progress import TrainingProgress
from foveate.engine.recorder import Recorder
from foveate.engine.run import RunFolder
from foveate.engine.schedule import Schedule
from foveate.engine.signals import stop_signals
from foveate.methods import METHODS
from foveate.networks import NETWORKS, build_network
from foveate.predict.predictor import Predictor
from foveate.tasks import build_task
from toys import boxes_and_masks, tiny_plan, toy_cohort

STEPS = 8
PLAN = tiny_plan(2, batch=2, widths=(4, 4, 6, 8), strides=((1, 1), *[(2, 2)] * 3))


class Killed(Exception):
    pass


def go(
    run: Path,
    cohort: PreparedCohort,
    name: str,
    weights: int,
    until: int = STEPS,
    own: str = "unet",
    plan: Plan = PLAN,
    start: float | None = 0.5,
) -> dict:
    """Start or continue the run, with fresh weights drawn by the seed ``weights``, and leave it at a step; what it
    would save then."""
    task = build_task(plan)
    config = load_config(steps=STEPS, method=name, network=own)
    split = Split(tuple(cohort.labelled), (), tuple(cohort.unlabelled))
    takes_missing = NETWORKS[own].takes_missing
    boxed, masks = boxes_and_masks(cohort) if METHODS[name].learns_boxes else (None, None)
    sampler = Sampler(cohort, plan, config.augment, split, 0, torch.device("cpu"), takes_missing, boxed, masks)
    torch.manual_seed(weights)

    def build(network=own):
        return build_network(NetworkConfig(name=network), plan, task.channels)

    method = METHODS[name](build(), task, MethodConfig(name=name, start=start, ramp=0.2), 0.9, build)
    with RunFolder(run, resume=True) as folder, stop_signals() as stop, TrainingProgress(quiet=True) as progress:
        if not folder.resumed:
            folder.begin(config, plan, {})
        schedule = Schedule(STEPS, None)
        predictor = Predictor(method.average, task, plan)
        labelling = Labelling(folder.path / "pseudo", predictor, cohort, sampler, method, schedule)
        recorder = Recorder(folder, schedule, method, progress, stop, config, labelling, None)
        if saved := folder.restore():
            recorder.restore(saved[1])

        def after_step(losses):
            recorder(losses)
            if schedule.step == until < STEPS:
                recorder.save()
                raise Killed

        fabric = Fabric(accelerator="cpu", devices=1)
        try:
            train_loop(
                fabric,
                method,
                recorder.optimisers,
                sampler,
                schedule,
                config.optimiser,
                after_step,
                recorder.before_step,
            )
        except Killed:
            assert schedule.step == until
        state = recorder.state()
        return {"method": state["method"], "optimisers": state["optimisers"]}


def leaves(tree, place=""):
    """Every tensor and number of a tree of dicts and lists, by where it is."""
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {key: leaf for name, value in items for key, leaf in leaves(value, f"{place}/{name}").items()}
    return {place: tree}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_goes_on_ends_bitwise_equal(name, tmp_path):
    """Stopped before the unlabelled scans enter, when some weights may not have been stepped yet, and after."""
    cohort = toy_cohort(tmp_path, PLAN)
    whole = leaves(go(tmp_path / "whole", cohort, name, weights=0))
    for weights, until in enumerate((2, 6, STEPS)):
        found = leaves(go(tmp_path / "run", cohort, name, weights, until))
    assert found.keys() == whole.keys()
    for key, value in whole.items():
        assert torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value, key


@pytest.mark.parametrize("name", ["self_training", "temporal_ensembling"])
def test_so_it_does_when_unlabelled_scans_wait_for_labelled_ones(name, tmp_path, monkeypatch):
    """A run that goes on knows before its first step that it is not yet time to label."""
    cohort = toy_cohort(tmp_path, PLAN)
    config = load_config().augment
    split = Split(tuple(cohort.labelled), (), tuple(cohort.unlabelled))
    shown = Sampler(cohort, PLAN, config, split, 0, torch.device("cpu")).views(STEPS)
    monkeypatch.setattr("foveate.methods.method.ENOUGH", shown * 0.75)
    whole = leaves(go(tmp_path / "whole", cohort, name, weights=0, start=None))
    for weights, until in enumerate((3, STEPS)):
        found = leaves(go(tmp_path / "run", cohort, name, weights, until, start=None))
    for key, value in whole.items():
        assert torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value, key


@pytest.mark.parametrize("name", ["supervised", "cross_teaching", "self_training"])
def test_so_it_does_when_modalities_are_missing_and_dropped(name, tmp_path):
    channels = tuple(ChannelPlan(name=n, normalisation="zscore") for n in ("T1", "T2", "FLAIR"))
    plan = PLAN.model_copy(update={"channels": channels})
    cohort = toy_cohort(tmp_path, plan)
    for case, channel in (("L0", 1), ("U1", 0)):  # never there, in either run
        image = np.load(cohort[case].image_path)
        image[channel] = np.nan
        write_array(cohort[case].image_path, image)
    whole = leaves(go(tmp_path / "whole", cohort, name, 0, own="fusion_unet", plan=plan))
    for weights, until in enumerate((3, STEPS)):
        found = leaves(go(tmp_path / "run", cohort, name, weights, until, own="fusion_unet", plan=plan))
    assert found.keys() == whole.keys()
    for key, value in whole.items():
        assert torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value, key
        assert not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.isfinite().all(), key
