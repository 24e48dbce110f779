"""Pseudo-labels: what the averaged network says of a whole scan, when it is due, and taught from the next step on."""

import math

import numpy as np
import pytest
import torch

from foveate.batches.sampler import Sampler
from foveate.cohort.split import Split
from foveate.config import AugmentConfig, MethodConfig, NetworkConfig
from foveate.engine.labelling import VIEWS, Labelling
from foveate.engine.loop import read_ahead
from foveate.engine.schedule import Schedule
from foveate.methods import METHODS
from foveate.networks import build_network
from foveate.predict.pieces import open_smaller_pieces
from foveate.predict.predictor import Predictor
from foveate.predict.views import draw_views
from foveate.tasks import build_task
from toys import STILL, tiny_plan, toy_cohort

PLAN = tiny_plan(2)


def nothing(done: int, scans: int) -> None:
    pass


@pytest.fixture
def make(tmp_path):
    def make(name="self_training", schedule=None, cohort=None, plan=PLAN, augment=STILL, **settings):
        torch.manual_seed(0)
        task = build_task(plan)
        network = build_network(NetworkConfig(), plan, task.channels)
        method = METHODS[name](network, task, MethodConfig(name=name, **settings), 0.9)
        cohort = cohort or toy_cohort(tmp_path, plan)
        split = Split(tuple(cohort.labelled), (), tuple(cohort.unlabelled))
        sampler = Sampler(cohort, plan, augment, split, 0, torch.device("cpu"))
        predictor = Predictor(method.average, task, plan)
        return Labelling(tmp_path / "pseudo", predictor, cohort, sampler, method, schedule or Schedule(100, None))

    return make


def due_at(labelling):
    """Progress in per cent at which a round was made."""
    found = []
    for step in range(100):
        labelling.schedule.step = step
        if labelling.due:
            labelling.make(nothing)
            found.append(step)
    return found


def test_rounds_are_made_at_the_start_and_evenly_afterwards(make):
    labelling = make(start=0.5)
    wanted = labelling.method.labellings
    assert due_at(labelling) == [math.ceil(50 + 50 * k / wanted) for k in range(wanted)]


@pytest.mark.parametrize("name", ["supervised", "mean_teacher"])
def test_who_wants_no_pseudo_labels_gets_none(make, name):
    assert due_at(make(name)) == []


def test_without_unlabelled_scans_or_their_loss_nothing_is_labelled(make, tmp_path):
    (tmp_path / "alone").mkdir()
    assert due_at(make(cohort=toy_cohort(tmp_path / "alone", PLAN, unlabelled=0))) == []
    assert due_at(make(unlabelled_weight=0.0)) == []


@pytest.mark.parametrize("patch", [16, 24], ids=["windows", "whole"])
def test_the_label_of_a_scan_is_the_averaged_networks_over_the_views_where_a_patch_holds_it(make, patch, tmp_path):
    (tmp_path / "scans").mkdir()
    scans = toy_cohort(tmp_path / "scans", PLAN)
    assert scans["U0"].shape == (22, 22)
    labelling = make(cohort=scans, plan=tiny_plan(2, patch=(patch, patch)))
    labelling.predictor.task.one_piece = {"class 1": 1, "class 2": 2}
    labelling.make(nothing)
    views = draw_views(VIEWS, PLAN.spacing, (), 1) if patch == 24 else ()
    assert set(labelling.sampler.pseudo) == {"U0", "U1", "U2"}
    for name, case in labelling.sampler.pseudo.items():
        image = labelling.prepared[name].image
        answer = labelling.predictor.predict_prepared(image, views)
        expected = open_smaller_pieces(answer, labelling.predictor.task.one_piece)
        assert not np.array_equal(answer, expected)
        assert np.array_equal(case.label, expected)
        assert case.image is not None
        assert (case.image == image).all()
        assert {int(value) for value in case.voxels} == set(np.unique(expected).tolist()) - {0, 255}
    with torch.no_grad():
        for parameter in labelling.method.average.parameters():
            parameter.add_(torch.randn(parameter.shape))
    before = {name: np.array(case.label) for name, case in labelling.sampler.pseudo.items()}
    labelling.make(nothing)
    assert any((before[name] != case.label).any() for name, case in labelling.sampler.pseudo.items())


def test_what_the_network_is_not_sure_of_teaches_nothing(make):
    labelling = make(confidence=0.5)
    labelling.make(nothing)
    image = labelling.prepared["U0"].image
    sure, all_of_it = labelling.sampler.pseudo["U0"].label, labelling.predictor.predict_prepared(image)
    apart = open_smaller_pieces(all_of_it, labelling.predictor.task.one_piece) == 255
    assert (apart & (sure == 255)).sum() < (sure == 255).sum() < sure.size
    assert (sure[sure != 255] == all_of_it[sure != 255]).all()


def test_batches_hold_the_pseudo_labels_of_their_own_voxels_from_the_round_on(make):
    labelling = make(start=0.3, schedule=Schedule(10, None))
    sampler, schedule = labelling.sampler, labelling.schedule

    def before_step():
        if labelling.due:
            labelling.make(nothing)

    seen = []
    for batch in read_ahead(sampler, labelling.method, schedule, before_step):
        seen.append((len(batch.images), len(batch.weak)))
        if len(batch.weak):
            expected = sampler.batch(schedule.step, sampler.read(schedule.step, 2, 2), 1)
            assert torch.equal(batch.pseudo, expected.pseudo)
            assert torch.equal(batch.weak, expected.weak)
            # Nothing is turned or zoomed here, so what is cut from image and label can be found in the scan again.
            for name, image, label in zip(batch.cases[2:], batch.weak, batch.pseudo, strict=True):
                whole = torch.from_numpy(np.array(sampler.pseudo[name].image, np.float32))[0]
                labels = torch.from_numpy(np.array(sampler.pseudo[name].label))
                places = [
                    (y, x)
                    for y in range(whole.shape[0] - 15)
                    for x in range(whole.shape[1] - 15)
                    if (whole[y : y + 16, x : x + 16] - image[0]).abs().max() < 1e-3
                ]
                assert len(places) == 1
                (y, x) = places[0]
                assert torch.equal(labels[y : y + 16, x : x + 16], label)
        schedule.stepped(0.0)
    assert seen == [(4, 0)] * 3 + [(2, 2)] * 7


def test_until_there_are_pseudo_labels_every_image_is_a_labelled_one(make):
    """As when the clock passes the method's start between the look at it and the reading of the batch."""
    labelling = make(start=0.3, schedule=Schedule(10, None))
    schedule, seen = labelling.schedule, []

    def before_step():
        if schedule.step == 5:
            labelling.make(nothing)

    for batch in read_ahead(labelling.sampler, labelling.method, schedule, before_step):
        list(labelling.method.turns(batch, schedule.progress))
        seen.append((len(batch.images), len(batch.weak)))
        schedule.stepped(0.0)
    assert seen == [(4, 0)] * 5 + [(2, 2)] * 5


def test_a_round_that_was_cut_short_goes_on_where_it_stopped(make, monkeypatch):
    labelling = make()

    def stop(done, scans):
        assert scans == 3
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        labelling.make(stop)
    assert labelling.sampler.round == 0
    assert not labelling.sampler.pseudo
    written = {path: path.stat().st_mtime_ns for path in labelling.folder.rglob("*.label.npy")}
    assert len(written) == 2
    again = make()
    again.make(nothing)
    assert len(again.sampler.pseudo) == 3
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())


def test_a_run_that_goes_on_gets_the_labels_of_its_own_round(make):
    labelling = make()
    labelling.make(nothing)
    first = {name: case.label_path for name, case in labelling.sampler.pseudo.items()}
    labelling.make(nothing)
    again = make()
    again.use(1)
    assert {name: case.label_path for name, case in again.sampler.pseudo.items()} == first
    assert again.sampler.round == 1
    labelling.remove()
    again.use(1)
    assert again.sampler.round == 0  # the labels are gone: they will be made again
    assert not again.sampler.pseudo


def test_a_round_that_takes_too_long_leaves_the_others_their_older_labels(make):
    labelling = make()
    labelling.make(nothing)
    labelling.schedule = Schedule(None, 1e-9)
    labelling.make(nothing)
    rounds = sorted(case.label_path.parent.name for case in labelling.sampler.pseudo.values())
    assert rounds == ["round-1", "round-1", "round-2"]


@pytest.mark.parametrize("classes", [{"front": 1, "back": 2}, {"whole": (1, 2), "core": (2,)}])
def test_a_memory_holds_the_corrected_mean_of_all_rounds(make, tmp_path, classes):
    """Z / (1 - a^t), Z = a Z + (1 - a) z, from Z = 0: over the rounds in which a scan was answered."""
    labelling = make("temporal_ensembling", plan=tiny_plan(2, classes=classes))
    alpha, total = labelling.method.memory, 0.0
    for t in range(1, 4):
        with torch.no_grad():
            for parameter in labelling.method.average.parameters():
                parameter.add_(torch.randn(parameter.shape))
        labelling.make(nothing)
        z = labelling.predictor.probabilities_prepared(labelling.prepared["U0"].image)
        total = alpha * total + (1 - alpha) * z
        found = labelling.sampler.pseudo["U0"].label
        assert found.dtype == np.uint8
        assert np.abs(found[:-1] / 255 - total / (1 - alpha**t)).max() < 1 / 255  # each round is rounded
        assert (found[-1] == 255).all()


def test_a_memory_teaches_nothing_where_it_is_unsure(make):
    labelling = make("temporal_ensembling", confidence=0.5)
    labelling.make(nothing)
    values = labelling.predictor.probabilities_prepared(labelling.prepared["U0"].image)
    known = labelling.sampler.pseudo["U0"].label[-1]
    assert 0 < (known == 0).mean() < 1
    assert np.array_equal(known == 255, values.max(0) >= 0.5)


def test_a_remembered_answer_follows_its_voxels_through_any_geometry(make):
    """A network that answers the grey value: then what is remembered of a patch is a function of the patch."""
    labelling = make("temporal_ensembling", augment=AugmentConfig(rotation_degrees=30, affine_p=1.0, elastic_p=1.0))
    answer = labelling.predictor.network
    answer.forward = lambda x: torch.cat([torch.zeros_like(x), x, -x], dim=1)
    labelling.make(nothing)
    sampler = labelling.sampler
    batch = sampler.batch(7, sampler.read(7, 2, 4), 1)
    known = batch.pseudo[:, -1:] > 0.99
    assert 0.5 < known.float().mean() < 1  # turned patches reach beyond the scan
    expected = torch.cat([torch.zeros_like(batch.weak), batch.weak, -batch.weak], dim=1).softmax(1)
    error = ((batch.pseudo[:, :-1] - expected).abs() * known).sum() / (3 * known.sum())
    shuffled = ((batch.pseudo[:, :-1] - expected.roll(1, 0)).abs() * known).sum() / (3 * known.sum())
    assert error < 0.1 * shuffled  # between voxels the mean of answers is not quite the answer to the mean
