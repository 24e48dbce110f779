"""Perturbations do to features what their names say, in 2D and 3D, and nothing to the tensor that they are given."""

import math

import pytest
import torch

from foveate.methods import perturb

every_one = pytest.mark.parametrize(
    "change", [perturb.channel_dropout, perturb.feature_noise, perturb.feature_drop, perturb.clipped_noise]
)
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def features(dims, images=3, channels=8):
    return torch.rand(images, channels, *[6] * dims, generator=torch.Generator().manual_seed(0)) + 0.1


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@every_one
@in_2d_and_3d
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replayed_by_the_seed_without_touching_the_input_or_the_global_generator(change, dims, dtype):
    x = features(dims).to(dtype)
    before, state = x.clone(), torch.get_rng_state()
    first = change(x, generator())
    assert first.dtype == dtype
    assert first.shape == x.shape
    assert torch.equal(first, change(x, generator()))
    assert not torch.equal(first, change(x, generator(1)))
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


@in_2d_and_3d
def test_channel_dropout_takes_whole_channels_of_single_images_and_keeps_the_mean(dims):
    x = features(dims, images=20, channels=50)
    ratio = (perturb.channel_dropout(x, generator(), p=0.25) / x).flatten(2)
    torch.testing.assert_close(ratio.amin(2), ratio.amax(2))  # all of a channel or nothing
    dropped = ratio[..., 0] == 0
    torch.testing.assert_close(ratio[..., 0][~dropped], torch.full((int((~dropped).sum()),), 1 / 0.75))
    assert dropped.float().mean() == pytest.approx(0.25, abs=0.05)
    assert not torch.equal(dropped[0], dropped[1])


@in_2d_and_3d
def test_feature_noise_is_in_proportion_within_its_limit_and_drawn_for_every_value(dims):
    x = features(dims)
    noise = perturb.feature_noise(x, generator(), limit=0.2) / x - 1
    assert float(noise.abs().max()) == pytest.approx(0.2, abs=0.01)
    assert float(noise.std()) == pytest.approx(0.2 / math.sqrt(3), rel=0.05)
    assert len(noise.unique()) > 0.9 * noise.numel()


@in_2d_and_3d
def test_feature_drop_takes_the_most_active_places_through_all_channels(dims):
    x = features(dims)
    changed = perturb.feature_drop(x, generator(), 0.6, 0.9)
    gone = (changed == 0).all(1)
    assert torch.equal(gone, (changed == 0).any(1))
    assert torch.equal(changed.movedim(1, -1)[~gone], x.movedim(1, -1)[~gone])
    activity = x.mean(1)
    for image, out in zip(activity, gone, strict=True):
        scaled = (image - image.min()) / (image.max() - image.min())
        assert scaled[out].min() > scaled[~out].max()
        assert scaled[out].min() > 0.6
        assert scaled[~out].max() <= 0.9
    assert perturb.feature_drop(torch.ones_like(x), generator()).eq(1).all()  # nothing stands out


@in_2d_and_3d
def test_clipped_noise_has_its_deviation_and_its_bound(dims):
    x = features(dims, images=20)
    noise = perturb.clipped_noise(x, generator(), deviation=0.1) - x
    assert float(noise.abs().max()) == pytest.approx(0.2, abs=1e-6)
    assert float(noise.std()) == pytest.approx(0.096, abs=0.003)  # clipping at 2 leaves 0.959 of it
    assert float(noise.mean()) == pytest.approx(0, abs=0.003)
