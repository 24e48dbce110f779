"""Augmentation does what its parameters say, on the image and on its labels alike."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from foveate.batches.augment import (
    Geometry,
    Intensity,
    change_intensity,
    cut_out,
    sample_geometry,
    sample_intensity,
    sampling_grid,
    warp,
    warp_labels,
)
from foveate.config import AugmentConfig
from toys import STILL

SIZES = {2: (18, 23), 3: (12, 15, 9)}
SPACINGS = {2: (1.0, 1.4), 3: (0.8, 1.0, 3.0)}
STRONG = AugmentConfig(
    affine_p=1, elastic_p=1, blur_p=1, contrast_p=1, brightness_p=1, gamma_p=1, noise_p=1, low_resolution_p=1, bias_p=1
)

in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def still(batch, dims):
    return Geometry(
        torch.eye(dims).repeat(batch, 1, 1), torch.zeros(batch, dims), torch.zeros(batch, dims, *[5] * dims)
    )


def neutral(batch, dims, **changes):
    """Parameters that change nothing, but for ``changes``."""
    ones, zeros = torch.ones(batch), torch.zeros(batch)
    values = {"blur": zeros, "low_resolution": ones, "gain": ones, "offset": zeros, "gamma": ones, "noise": zeros}
    return Intensity(**(values | {"bias": torch.zeros(batch, *[4] * dims), "noise_seed": 3} | changes))


def size_in_mm(dims):
    return [n * s for n, s in zip(SIZES[dims], SPACINGS[dims], strict=True)]


def at_random(dims, batch=2, seed=0):
    return torch.randn(batch, 2, *SIZES[dims], generator=generator(seed))


# --- sampling the parameters


@in_2d_and_3d
def test_the_same_seed_draws_the_same_change(dims):
    def change(seed):
        source = generator(seed)
        geometry = sample_geometry(STRONG, 2, size_in_mm(dims), (0,), source)
        intensity = sample_intensity(STRONG, 2, dims, source)
        grid = sampling_grid(geometry, SIZES[dims], SIZES[dims], SPACINGS[dims])
        return change_intensity(warp(at_random(dims), grid), intensity)

    assert torch.equal(change(5), change(5))
    assert not torch.allclose(change(5), change(6))


@in_2d_and_3d
def test_what_is_switched_off_leaves_every_image_bit_identical(dims):
    x = at_random(dims, batch=8)
    assert torch.equal(change_intensity(x, sample_intensity(STILL, 8, dims, generator())), x)
    geometry = sample_geometry(STILL, 8, size_in_mm(dims), (), generator())
    assert torch.equal(geometry.matrix, still(8, dims).matrix)
    assert not geometry.shift.any()
    assert not geometry.control.any()


@pytest.mark.parametrize(
    "probability", ["blur_p", "contrast_p", "brightness_p", "gamma_p", "noise_p", "low_resolution_p", "bias_p"]
)
def test_each_probability_switches_its_own_change(probability):
    x = at_random(2, batch=400)
    rare = STILL.model_copy(update={probability: 0.25})
    changed = change_intensity(x, sample_intensity(rare, 400, 2, generator()))
    share = float(((changed - x).abs().amax((1, 2, 3)) > 1e-5).float().mean())
    assert share == pytest.approx(0.25, abs=0.08)


@in_2d_and_3d
def test_parameters_stay_in_the_ranges_of_the_configuration(dims):
    config = STRONG.model_copy(update={"rotation_degrees": 10.0, "scale": 0.3, "shift": 0.1, "elastic": 0.05})
    size = torch.tensor(size_in_mm(dims))
    geometry = sample_geometry(config, 500, size.tolist(), (), generator())
    assert (geometry.shift.abs() <= 0.1 * size + 1e-5).all()
    assert geometry.control.abs().max() <= 2.5 * 0.05 * size.min()
    zoom = geometry.matrix.norm(dim=1)  # the columns' lengths: zoom per axis
    assert zoom.max() == pytest.approx(1.3, abs=0.02)
    assert zoom.min() == pytest.approx(1 / 1.3, abs=0.02)
    in_plane = geometry.matrix[:, :, 0] / zoom[:, :1]
    largest = math.acos(math.cos(math.radians(10)) ** (1 if dims == 2 else 2))
    assert 0.6 * largest < float(in_plane[:, 0].acos().max()) <= largest + 1e-4


# --- geometry


@in_2d_and_3d
@pytest.mark.parametrize("grow", [0, 4])
def test_standing_still_returns_the_middle_of_the_region(dims, grow):
    region = tuple(n + grow for n in SIZES[dims])
    x = torch.randn(2, 2, *region)
    labels = torch.randint(0, 256, (2, *region)).to(torch.uint8)
    grid = sampling_grid(still(2, dims), SIZES[dims], region, SPACINGS[dims])
    middle = (..., *[slice(grow // 2, grow // 2 + n) for n in SIZES[dims]])
    torch.testing.assert_close(warp(x, grid), x[middle], atol=1e-4, rtol=0)  # float32 positions
    assert torch.equal(warp_labels(labels, grid), labels[middle])


@pytest.mark.parametrize(("dims", "plane"), [(2, (0, 1)), (3, (0, 1)), (3, (0, 2)), (3, (1, 2))])
def test_a_right_angle_is_rot90(dims, plane):
    a, b = plane
    geometry = still(1, dims)
    geometry.matrix[0, [a, b], [a, b]] = 0.0
    geometry.matrix[0, a, b], geometry.matrix[0, b, a] = -1.0, 1.0
    x = torch.randn(1, 1, *[10] * dims)
    grid = sampling_grid(geometry, x.shape[2:], x.shape[2:], (1.5,) * dims)
    torch.testing.assert_close(warp(x, grid), torch.rot90(x, -1, (a + 2, b + 2)), atol=1e-4, rtol=0)
    labels = (x[:, 0] > 0).to(torch.uint8)
    assert torch.equal(warp_labels(labels, grid), torch.rot90(labels, -1, (a + 1, b + 1)))


@pytest.mark.parametrize(
    ("spacing", "patch"), [((1.0, 1.0, 4.0), (48, 40, 14)), ((3.0, 1.0, 1.0), (18, 44, 52)), ((0.5, 1.0), (96, 60))]
)
def test_rotation_is_rigid_in_millimetres(spacing, patch):
    """Blobs keep their distances in mm, on voxels and patches of unequal sides."""
    dims = len(patch)
    config = STILL.model_copy(update={"affine_p": 1.0, "rotation_degrees": 60.0, "scale": 0.0, "shift": 0.0})
    geometry = sample_geometry(config, 4, [n * s for n, s in zip(patch, spacing, strict=True)], (), generator(1))
    torch.testing.assert_close(
        geometry.matrix @ geometry.matrix.mT, torch.eye(dims).expand(4, dims, dims), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(geometry.matrix.det(), torch.ones(4))
    points = torch.tensor([[6.0, 5.0, -4.0], [-7.0, 3.0, 5.0], [1.0, -8.0, 0.0]])[:, :dims]
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(patch, spacing, strict=True)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)  # [*patch, D] mm from the middle
    blobs = torch.stack([torch.exp(-((places - p) ** 2).sum(-1) / (2 * 3.0**2)) for p in points])
    moved = warp(blobs.expand(4, -1, *patch), sampling_grid(geometry, patch, patch, spacing))
    weights = moved / moved.flatten(2).sum(2).reshape(4, 3, *[1] * dims)
    found = (weights[..., None] * places).flatten(2, -2).sum(2)  # [4, 3, D] mm
    assert (found - points).norm(dim=-1).mean() > 2.0
    torch.testing.assert_close(
        torch.cdist(found, found), torch.cdist(points, points).expand(4, -1, -1), atol=0.3, rtol=0
    )


@in_2d_and_3d
def test_shift_is_in_millimetres_of_the_input(dims):
    geometry = still(1, dims)
    geometry.shift[0] = torch.tensor([2 * SPACINGS[dims][0], *[0.0] * (dims - 1)])
    x = at_random(dims, batch=1)
    moved = warp(x, sampling_grid(geometry, SIZES[dims], SIZES[dims], SPACINGS[dims]))
    torch.testing.assert_close(moved[:, :, :-2], x[:, :, 2:], atol=1e-4, rtol=0)
    assert (moved[:, :, -2:].abs() < 1e-4).all()  # beyond the region: zero


@in_2d_and_3d
def test_mirroring_flips_the_named_axis_and_twice_is_nothing(dims):
    config = STILL.model_copy(update={"mirror": [1]})
    geometry = sample_geometry(config, 64, size_in_mm(dims), (1,), generator())
    flipped = geometry.matrix.det() < 0
    assert 16 < int(flipped.sum()) < 48
    x = at_random(dims, batch=64)
    grid = sampling_grid(geometry, SIZES[dims], SIZES[dims], SPACINGS[dims])
    once = warp(x, grid)
    torch.testing.assert_close(once[flipped], x[flipped].flip(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(once[~flipped], x[~flipped], atol=1e-4, rtol=0)
    torch.testing.assert_close(warp(once, grid), x, atol=1e-4, rtol=0)


def strong_grid(dims, batch, seed):
    config = STRONG.model_copy(update={"rotation_degrees": 45.0})
    geometry = sample_geometry(config, batch, size_in_mm(dims), (0, 1), generator(seed))
    return sampling_grid(geometry, SIZES[dims], SIZES[dims], SPACINGS[dims])


@in_2d_and_3d
def test_labels_stay_on_their_image(dims):
    """Depth inside a ball as the image, the ball as the label: the border of one is that of the other."""
    offsets = np.meshgrid(*[np.arange(n) - (n - 1) / 2.3 for n in SIZES[dims]], indexing="ij")
    depth = torch.tensor(0.35 * min(SIZES[dims]) - np.sqrt(sum(o**2 for o in offsets)), dtype=torch.float32)
    labels = (depth > 0).to(torch.uint8)
    for seed in range(5):
        grid = strong_grid(dims, 4, seed)
        deep = warp(depth.expand(4, 1, *depth.shape) + 100, grid)[:, 0] - 100  # so that "outside" reads far below 0
        found = warp_labels(labels.expand(4, *labels.shape), grid)
        clear = deep.abs() > math.sqrt(dims) / 2  # further from the border than the nearest voxel's centre can be
        assert clear.float().mean() > 0.5
        assert ((deep > 0) == (found > 0))[clear].all()
        assert found[deep > 1].numel() > 0


@in_2d_and_3d
def test_labels_take_no_value_that_was_not_there(dims):
    labels = torch.from_numpy(np.random.default_rng(0).choice([3, 7, 200, 255], (4, *SIZES[dims])).astype(np.uint8))
    found = warp_labels(labels, strong_grid(dims, 4, 0))
    assert found.dtype == torch.uint8
    assert set(found.unique().tolist()) == {0, 3, 7, 200, 255}  # 0: beyond the region


def test_the_elastic_field_moves_voxels_by_what_its_control_points_say():
    geometry = still(1, 2)
    geometry.control = torch.zeros(1, 2, 3, 3)
    geometry.control[0, 1, 1, 1] = 4.0  # mm along the second axis, in the middle of the patch alone
    ramp = torch.arange(21.0).expand(1, 1, 21, 21)
    moved = warp(ramp, sampling_grid(geometry, (21, 21), (21, 21), (2.0, 2.0)))[0, 0]
    assert float(moved[10, 10] - ramp[0, 0, 10, 10]) == pytest.approx(2.0, abs=1e-4)  # 4 mm are two voxels
    torch.testing.assert_close(moved[0], ramp[0, 0, 0], atol=1e-4, rtol=0)


# --- intensity


@in_2d_and_3d
def test_gain_and_offset(dims):
    x = at_random(dims)
    p = neutral(2, dims, gain=torch.tensor([0.7, 1.0]), offset=torch.tensor([0.0, -0.3]))
    torch.testing.assert_close(change_intensity(x, p), torch.stack([0.7 * x[0], x[1] - 0.3]))


@in_2d_and_3d
def test_noise_has_the_deviation_asked_for(dims):
    x = torch.zeros(3, 1, *[24 if dims == 3 else 100] * dims)
    noisy = change_intensity(x, neutral(3, dims, noise=torch.tensor([0.0, 0.1, 0.2])))
    assert (noisy[0] == 0).all()
    assert noisy.flatten(1).std(1).tolist() == pytest.approx([0.0, 0.1, 0.2], rel=0.03)
    assert noisy.flatten(1).mean(1).abs().max() < 0.01
    assert abs(float(torch.corrcoef(noisy[1:].flatten(1))[0, 1])) < 0.05  # every image has noise of its own


@in_2d_and_3d
@pytest.mark.parametrize("sigma", [0.5, 1.1])
def test_blur_equals_scipy(dims, sigma):
    x = at_random(dims)
    blurred = change_intensity(x, neutral(2, dims, blur=torch.tensor([sigma, 0.0])))
    assert torch.equal(blurred[1], x[1])
    for channel in range(2):
        expected = ndimage.gaussian_filter(
            x[0, channel].double().numpy(), sigma, mode="constant", radius=math.ceil(2.5 * sigma)
        )
        np.testing.assert_allclose(blurred[0, channel], expected, atol=1e-5)


@in_2d_and_3d
def test_low_resolution_loses_detail_and_moves_nothing(dims):
    offsets = torch.meshgrid(*[torch.arange(24.0) - 11.5 for _ in range(dims)], indexing="ij")
    blob = torch.exp(-sum(o**2 for o in offsets) / (2 * 3.0**2)).expand(1, 1, *[24] * dims)
    changed = change_intensity(blob, neutral(1, dims, low_resolution=torch.tensor([2.0])))
    for axis, offset in enumerate(offsets):
        assert float((changed[0, 0] * offset).sum() / changed.sum()) == pytest.approx(0, abs=1e-3), axis
    noise = torch.randn(1, 1, *[24] * dims)
    coarse = change_intensity(noise, neutral(1, dims, low_resolution=torch.tensor([2.0])))
    assert noise.diff(dim=-1).std() > 2 * coarse.diff(dim=-1).std()
    torch.testing.assert_close(
        change_intensity(torch.full_like(noise, 1.7), neutral(1, dims, low_resolution=torch.tensor([1.6]))),
        torch.full_like(noise, 1.7),
    )


@in_2d_and_3d
def test_gamma_keeps_level_and_spread_and_the_order_of_values(dims):
    x = at_random(dims)
    changed = change_intensity(x, neutral(2, dims, gamma=torch.tensor([1.5, 1.0])))
    assert torch.equal(changed[1], x[1])
    assert not torch.allclose(changed[0], x[0], atol=0.05)
    assert float(changed[0].mean()) == pytest.approx(float(x[0].mean()), abs=1e-5)
    assert float(changed[0].std()) == pytest.approx(float(x[0].std()), rel=1e-4)
    assert (changed[0].flatten()[x[0].flatten().argsort()].diff() >= -1e-6).all()


def test_gamma_of_a_constant_image_is_finite():
    x = torch.full((1, 1, 8, 8), 0.3)
    assert torch.allclose(change_intensity(x, neutral(1, 2, gamma=torch.tensor([1.4]))), x)


@in_2d_and_3d
def test_the_bias_field_is_a_smooth_positive_gain_on_signal_above_the_darkest_value(dims):
    bias = torch.randn(1, *[4] * dims, generator=generator()) * 0.25
    x = at_random(dims, batch=1)
    changed = change_intensity(x, neutral(1, dims, bias=bias))
    places = np.meshgrid(*[np.linspace(0, 3, n) for n in SIZES[dims]], indexing="ij")
    gain = np.exp(ndimage.map_coordinates(bias[0].numpy(), places, order=1))
    for channel in range(2):
        low = x[0, channel].min()
        expected = (x[0, channel] - low).numpy() * gain
        np.testing.assert_allclose((changed[0, channel] - low).numpy(), expected, atol=1e-4)


@in_2d_and_3d
def test_cut_out_hides_one_box_of_at_most_half_of_every_side(dims):
    x = torch.ones(64, 2, *(20, 16, 12)[:dims])
    x[:, 1] = torch.nan
    source = generator()
    seen = cut_out(x, 1.0, source)
    assert seen[:, 1].isnan().all()
    for image in seen[:, 0]:
        hidden = (image == 0).nonzero()
        if len(hidden):
            sides = hidden.amax(0) - hidden.amin(0) + 1
            assert len(hidden) == sides.prod()
            assert (sides <= torch.tensor(image.shape) / 2 + 1).all()
    share = (seen[:, 0] == 0).flatten(1).any(1).float().mean()
    assert share > 0.8
    assert torch.equal(cut_out(x[:, :1], 0.0, source), x[:, :1])
    some = (cut_out(x[:, :1], 0.5, source) == 0).flatten(1).any(1).float().mean()
    assert 0.25 < some < 0.75
