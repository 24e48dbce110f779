"""A missing modality is NaN from the cache to the batch, matters to no other, and is drawn by seed and step alone."""

from collections import Counter

import numpy as np
import pytest
import torch

from foveate.batches.augment import change_intensity, drop_modalities, sample_intensity
from foveate.batches.cache import write_array
from foveate.batches.prepare import prepare_volume
from foveate.batches.sampler import Sampler
from foveate.cohort.plan import ChannelPlan
from foveate.cohort.split import Split
from foveate.config import AugmentConfig
from foveate.errors import InputError
from foveate.io.volume import Volume
from foveate.layers import present
from toys import STILL, tiny_plan, toy_cohort

CHANNELS = tuple(ChannelPlan(name=name, normalisation="zscore") for name in ("T1", "T2", "FLAIR"))
EVERYTHING = AugmentConfig(**{f: 1.0 for f in AugmentConfig.model_fields if f.endswith("_p")})
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def sampler(cohort, plan, augment=STILL, takes_missing=True):
    split = Split(tuple(cohort.labelled), (), tuple(cohort.unlabelled))
    return Sampler(cohort, plan, augment, split, 0, torch.device("cpu"), takes_missing)


def draw(source, step):
    return source.batch(step, source.read(step, 3, 3), 1)


def test_preparation_keeps_a_missing_channel_and_refuses_an_image_of_nothing_else():
    plan = tiny_plan(3, channels=CHANNELS, spacing=(1.0, 1.5, 1.0))
    array = np.random.default_rng(0).normal(size=(3, 6, 7, 8)).astype(np.float32)
    whole, _ = prepare_volume(Volume(array, np.eye(4)), plan)
    array[1] = np.nan
    prepared, _ = prepare_volume(Volume(array, np.eye(4)), plan)
    assert prepared[1].isnan().all()
    assert torch.equal(prepared[[0, 2]], whole[[0, 2]])
    array[:] = np.nan
    with pytest.raises(InputError, match="modalities: found none that is there; expected at least one of T1, T2"):
        prepare_volume(Volume(array, np.eye(4)), plan)


@in_2d_and_3d
def test_a_missing_modality_changes_no_bit_of_the_others(dims):
    params = sample_intensity(EVERYTHING, 2, dims, torch.Generator().manual_seed(0))
    images = torch.randn(2, 3, *[9] * dims)
    one = torch.stack([images[0, [0, 2]], images[1, [0, 2]]])
    images[:, 1] = torch.nan
    params.noise.zero_()  # its own randomness is drawn for the whole batch
    changed = change_intensity(images, params)
    assert changed[:, 1].isnan().all()
    assert torch.equal(changed[:, [0, 2]], change_intensity(one, params))
    assert not torch.equal(changed[:, 0], images[:, 0])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_scan_without_a_modality_gives_batches_without_it(tmp_path, dims):
    plan = tiny_plan(dims, channels=CHANNELS)
    cohort = toy_cohort(tmp_path, plan, shape=(12,) * dims)  # smaller than the patch: there is padding
    image = np.load(cohort["L1"].image_path)
    image[2] = np.nan
    write_array(cohort["L1"].image_path, image)
    source = sampler(cohort, plan, EVERYTHING.model_copy(update={"modality_p": 0.0}))
    for step in range(3):
        batch = draw(source, step)
        for case, there in zip(batch.cases[:3], present(batch.images), strict=True):
            assert there.tolist() == [True, True, case != "L1"]
        assert present(batch.weak).all()


def test_every_part_of_what_is_there_is_equally_likely_but_the_empty_one():
    images = torch.zeros(4000, 3, 2, 2)
    images[2000:, 1] = torch.nan
    there = present(drop_modalities(images, 1.0, torch.Generator().manual_seed(0)))
    for part, count in ((there[:2000], 7), (there[2000:], 3)):
        found = Counter(map(tuple, part.tolist()))
        assert len(found) == count
        assert (False,) * 3 not in found
        assert max(abs(n - 2000 / count) for n in found.values()) < 4 * (2000 / count) ** 0.5
    assert not there[2000:, 1].any()
    some = present(drop_modalities(images[:2000], 0.3, torch.Generator().manual_seed(0)))
    assert (~some.all(1)).float().mean() == pytest.approx(0.3 * 6 / 7, abs=0.04)


def test_labelled_images_and_strong_views_lose_modalities_and_weak_views_none(tmp_path):
    plan = tiny_plan(2, channels=CHANNELS)
    cohort = toy_cohort(tmp_path, plan)
    first, second = (sampler(cohort, plan, STILL.model_copy(update={"modality_p": 1.0})) for _ in range(2))
    batches = [draw(first, step) for step in range(6)]
    for name in ("images", "weak"):
        shown = torch.cat([present(getattr(batch, name)) for batch in batches])
        assert shown.any(1).all()
        assert shown.all() == (name == "weak")
    assert not torch.cat([present(batch.strong[0]) for batch in batches]).all()
    for step in (4, 1):  # whatever came before
        again = draw(second, step)
        torch.testing.assert_close(again.images, batches[step].images, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(again.strong[0], batches[step].strong[0], rtol=0, atol=0, equal_nan=True)
    kept = sampler(cohort, plan, STILL.model_copy(update={"modality_p": 1.0}), takes_missing=False)
    assert all(present(draw(kept, step).images).all() for step in range(6))
