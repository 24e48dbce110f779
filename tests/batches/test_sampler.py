"""A batch follows from the seed and the step alone, and holds what was asked for, voxel for voxel."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from foveate.batches.cache import PreparedCase, PreparedCohort
from foveate.batches.sampler import Sampler
from foveate.cohort.plan import ChannelPlan
from foveate.cohort.split import Split
from foveate.config import AugmentConfig
from foveate.errors import FoveateError
from toys import STILL, prepared_case, tiny_plan, toy_cohort

CPU = torch.device("cpu")
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def sampler(cohort, plan, augment=STILL, seed=0, train=None, unlabelled=None):
    split = Split(tuple(train or cohort.labelled), (), tuple(cohort.unlabelled if unlabelled is None else unlabelled))
    return Sampler(cohort, plan, augment, split, seed, CPU)


def draw(source, step, labelled=2, unlabelled=2, views=1):
    return source.batch(step, source.read(step, labelled, unlabelled), views)


def tensors(batch):
    return [batch.images, batch.labels, batch.weak, *batch.strong]


def same(one, other):
    return (
        one.cases == other.cases
        and one.seed == other.seed
        and all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
    )


@in_2d_and_3d
def test_a_batch_follows_from_seed_and_step_alone(tmp_path, dims):
    plan = tiny_plan(dims)
    cohort = toy_cohort(tmp_path, plan)
    first = sampler(cohort, plan, AugmentConfig())
    expected = [draw(first, step) for step in range(4)]
    second = sampler(cohort, plan, AugmentConfig())
    for step in (2, 0, 3, 1, 2):
        assert same(draw(second, step), expected[step])
    assert not any(same(expected[0], other) for other in expected[1:])
    assert not same(draw(sampler(cohort, plan, AugmentConfig(), seed=1), 0), expected[0])


def test_reading_ahead_in_threads_reads_the_same(tmp_path):
    plan = tiny_plan(2)
    cohort = toy_cohort(tmp_path, plan)
    expected = [draw(sampler(cohort, plan), step) for step in range(24)]
    shared = sampler(toy_cohort(tmp_path, plan), plan)  # files not opened yet
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda step: draw(shared, step), range(24)))
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


def test_labelled_images_are_the_same_however_many_unlabelled_ones_follow(tmp_path):
    plan = tiny_plan(2)
    source = sampler(toy_cohort(tmp_path, plan), plan, AugmentConfig())
    with_, without = draw(source, 3, 2, 2), draw(source, 3, 2, 0)
    assert torch.equal(with_.images, without.images)
    assert torch.equal(with_.labels, without.labels)
    assert without.weak.shape == (0, 1, 16, 16)
    assert without.strong == []


@in_2d_and_3d
def test_shapes_types_and_names(tmp_path, dims):
    plan = tiny_plan(dims)
    batch = draw(sampler(toy_cohort(tmp_path, plan), plan, AugmentConfig()), 0, 3, 2, views=2)
    assert batch.images.shape == (3, 1, *plan.patch)
    assert batch.labels.shape == (3, *plan.patch)
    assert batch.labels.dtype == torch.uint8
    assert batch.images.dtype == batch.weak.dtype == torch.float32
    assert [view.shape for view in batch.strong] == [batch.weak.shape] * 2 == [(2, 1, *plan.patch)] * 2
    assert not torch.equal(*batch.strong)
    assert sorted(batch.cases[:3]) == ["L0", "L1", "L2"]
    assert {name[0] for name in batch.cases[3:]} == {"U"}
    assert len(set(batch.cases)) == 5  # no case twice while there are enough


def test_strong_views_share_the_geometry_of_the_weak_one(tmp_path):
    plan = tiny_plan(2)
    augment = STILL.model_copy(update={"affine_p": 1.0, "brightness_p": 1.0})
    batch = draw(sampler(toy_cohort(tmp_path, plan), plan, augment), 0, 2, 2)
    difference = batch.strong[0] - batch.weak
    assert (difference.amax((1, 2, 3)) - difference.amin((1, 2, 3)) < 1e-5).all()  # one offset per image
    assert (difference.abs().amax((1, 2, 3)) > 0).all()


def test_labels_are_never_opened_for_unlabelled_draws(tmp_path):
    """Labelled cases drawn as unlabelled ones: their label files are not even there."""
    plan = tiny_plan(2)
    cohort = toy_cohort(tmp_path, plan, labelled=4, unlabelled=0)
    for name in ("L2", "L3"):
        cohort[name].label_path.unlink()
        cohort[name].voxels_path.unlink()
    source = sampler(cohort, plan, train=["L0", "L1"], unlabelled=["L2", "L3"])
    for step in range(20):
        assert set(draw(source, step).cases[2:]) == {"L2", "L3"}
    assert not {"label", "voxels"} & set(vars(cohort["L2"]))


@pytest.mark.parametrize("shape", [(9, 20), (16, 16), (40, 16), (11, 13)])
@pytest.mark.parametrize("patch", [(16, 16), (15, 16), (16, 7), (13, 11)])
def test_without_augmentation_a_patch_is_a_window_of_the_scan(tmp_path, shape, patch):
    """Every voxel says where it is from: patches stay inside; a small scan lies in the middle of zeros."""
    plan = tiny_plan(2, patch=patch, strides=((1, 1),) * 3)
    places = (1 + np.arange(shape[0])[:, None] + shape[0] * np.arange(shape[1])).astype(np.float32)  # exact in float16
    labels = (1 + (np.indices(shape).sum(0) % 2)).astype(np.uint8)
    cohort = PreparedCohort({"L0": prepared_case(tmp_path, "L0", places[None], labels)})
    corners = set()
    for step in range(30):
        batch = draw(sampler(cohort, plan), step, 1, 0)
        image = batch.images[0, 0].numpy()
        held = image > 0.5
        rows, columns = np.nonzero(held.any(1))[0], np.nonzero(held.any(0))[0]
        window = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert window.shape == tuple(min(n, p) for n, p in zip(shape, patch, strict=True))
        before, after = (rows[0], columns[0]), (patch[0] - 1 - rows[-1], patch[1] - 1 - columns[-1])
        assert all(abs(int(a) - int(b)) <= 1 for a, b in zip(before, after, strict=True))
        value = round(float(window[0, 0])) - 1
        corner = value % shape[0], value // shape[0]
        part = tuple(slice(c, c + n) for c, n in zip(corner, window.shape, strict=True))
        np.testing.assert_allclose(window, places[part], atol=0.1)
        expected = np.zeros(patch, np.uint8)
        expected[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = labels[part]
        np.testing.assert_array_equal(batch.labels[0].numpy(), expected)
        corners.add(corner)
    free = [n - p for n, p in zip(shape, patch, strict=True)]
    for axis, room in enumerate(free):
        assert (len({corner[axis] for corner in corners}) > 1) == (room > 0)


def test_half_of_the_patches_are_centred_on_a_class_drawn_at_random(tmp_path):
    plan = tiny_plan(2)
    labels = np.zeros((200, 200), np.uint8)
    labels[40:44, 40:44] = 1  # a small class and a large one
    labels[120:160, 120:160] = 2
    cohort = PreparedCohort({"L0": prepared_case(tmp_path, "L0", np.zeros((1, 200, 200), np.float32), labels)})
    source = sampler(cohort, plan)
    centres = [int(source.read(step, 1, 0)[0].labels[0, 10, 10]) for step in range(600)]  # the middle of the region
    assert centres.count(1) / 600 == pytest.approx(0.25, abs=0.05)
    assert centres.count(2) / 600 == pytest.approx(0.25 + 0.5 * (40 / 200) ** 2, abs=0.05)


def test_a_case_is_repeated_only_when_there_are_too_few(tmp_path):
    plan = tiny_plan(2)
    source = sampler(toy_cohort(tmp_path, plan, labelled=3, unlabelled=2), plan)
    for step in range(20):
        labelled, unlabelled = source.read(step, 5, 2)
        assert sorted(labelled.cases.count(f"L{i}") for i in range(3)) == [1, 2, 2]
        assert sorted(unlabelled.cases) == ["U0", "U1"]
    drawn = [source.read(step, 1, 0)[0].cases[0] for step in range(300)]
    assert min(drawn.count(f"L{i}") for i in range(3)) > 70


def test_images_and_labels_are_warped_as_one(tmp_path):
    """The image is the depth inside the labelled ball, so wherever it is clear of the border the label must agree."""
    channels = tuple(ChannelPlan(name=name, normalisation="zscore") for name in ("depth", "inside the scan"))
    plan = tiny_plan(3, patch=(16, 15, 12), spacing=(1.0, 1.0, 2.0), mirror_axes=(0,), channels=channels)
    offsets = np.indices((24, 22, 18)) - np.array([11.0, 10.0, 9.0])[:, None, None, None]
    depth = 6.0 - np.sqrt((offsets**2).sum(0))
    image = np.stack([depth, np.ones_like(depth)])
    cohort = PreparedCohort({"L0": prepared_case(tmp_path, "L0", image, (depth > 0).astype(np.uint8))})
    source = sampler(cohort, plan, STILL.model_copy(update={"affine_p": 1.0, "elastic_p": 1.0}))
    for step in range(10):
        batch = draw(source, step, 2, 0)
        found, inside = batch.images.unbind(1)
        clear = (found.abs() > 1.0) & (inside > 0.999)
        assert clear.float().mean() > 0.3
        assert ((found > 0) == (batch.labels > 0))[clear].all()


@pytest.mark.parametrize("harm", ["gone", "empty", "cut", "other bytes"])
def test_a_scan_that_cannot_be_read_is_named(tmp_path, harm):
    plan = tiny_plan(2)
    cohort = toy_cohort(tmp_path, plan, labelled=1)
    path = cohort["L0"].image_path
    data = path.read_bytes()
    path.unlink()
    if harm != "gone":
        path.write_bytes({"empty": b"", "cut": data[:-40], "other bytes": b"x" * len(data)}[harm])
    with pytest.raises(FoveateError, match=r"case L0: .*could not be read.*--resume"):
        sampler(cohort, plan).read(0, 1, 0)


def test_how_often_every_place_of_the_labelled_scans_is_shown(tmp_path):
    plan = tiny_plan(2)  # batches of 4 patches of 16 x 16
    cases = {
        "small": prepared_case(tmp_path, "small", np.zeros((1, 8, 8), np.float32), np.ones((8, 8), np.uint8)),
        "large": prepared_case(tmp_path, "large", np.zeros((1, 48, 16), np.float32), np.ones((48, 16), np.uint8)),
        "other": prepared_case(tmp_path, "other", np.zeros((1, 99, 99), np.float32), None),
    }
    source = sampler(PreparedCohort(cases), plan)
    assert source.views(10) == pytest.approx(10 * plan.batch / (1 + 3))
    assert source.by(plan.model_copy(update={"patch": (48, 16)})).views(10) == pytest.approx(10 * plan.batch / 2)


def test_unlabelled_patches_lie_where_labelled_ones_do(tmp_path):
    """Relative to the whole scan: else they would show a structure less often than the patches that have its label."""
    plan = tiny_plan(2)  # patches of 16 x 16
    labels = np.zeros((80, 80), np.uint8)
    labels[10:14, 60:64] = 1
    twice = np.repeat(np.repeat(labels, 2, 0), 3, 1).astype(np.float32)
    cases = {
        "L0": prepared_case(tmp_path, "L0", labels.astype(np.float32)[None], labels),
        "U0": prepared_case(tmp_path, "U0", twice[None], None),
    }
    source = sampler(PreparedCohort(cases), plan)
    batches = [draw(source, step, 1, 1) for step in range(200)]
    labelled, unlabelled = (
        [bool(x.amax() > 0.5) for x in images] for images in zip(*[(b.images, b.weak) for b in batches], strict=True)
    )
    assert np.mean(labelled) == pytest.approx(0.5, abs=0.12)
    assert np.mean(unlabelled) == pytest.approx(np.mean(labelled), abs=0.12)


def test_prepared_cases_are_opened_once(tmp_path):
    plan = tiny_plan(2)
    cohort = toy_cohort(tmp_path, plan, labelled=1)
    source = sampler(cohort, plan)
    source.read(0, 1, 1)
    opened = cohort["L0"].image
    source.read(1, 1, 1)
    assert isinstance(cohort["L0"], PreparedCase)
    assert cohort["L0"].image is opened
    assert isinstance(opened, np.memmap)
