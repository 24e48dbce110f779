"""Against brute force over all pairs of surface voxels, and against MONAI."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from foveate.metrics.case import score_case
from foveate.metrics.surface import surface, surface_distances, surface_scores


def random_masks(seed: int, shape: tuple[int, ...], smooth: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=shape), smooth)
    other = field + 0.5 * field.std() * gaussian_filter(rng.normal(size=shape), smooth) / field.std()
    masks = field > np.quantile(field, 0.7), other > np.quantile(other, rng.uniform(0.5, 0.95))
    for mask in masks:
        mask.flat[rng.integers(mask.size)] = True
    return masks


def brute_surface(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    points = []
    for point in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                neighbour = point + 1
                neighbour[axis] += step
                if not padded[tuple(neighbour)]:
                    points.append(tuple(point))
    return np.array(sorted(set(points)))


def brute_distances(first: np.ndarray, second: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    a, b = (brute_surface(mask) * np.array(spacing) for mask in (first, second))
    pairs = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return pairs.min(axis=1), pairs.min(axis=0)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(9, 8, 7), (14, 5, 12), (13, 17), (25, 3)]),
    st.tuples(*[st.floats(0.2, 6.0)] * 3),
    st.sampled_from([0.0, 0.6, 1.5]),
)
def test_equal_to_brute_force(seed: int, shape: tuple[int, ...], size: tuple[float, ...], smooth: float) -> None:
    spacing = size[: len(shape)]
    first, second = random_masks(seed, shape, smooth)
    there, back = surface_distances(first, second, spacing)
    expected_there, expected_back = brute_distances(first, second, spacing)
    np.testing.assert_allclose(there, expected_there, rtol=1e-9)
    np.testing.assert_allclose(back, expected_back, rtol=1e-9)
    scores = surface_scores(first, second, spacing, 1.3)
    assert scores.hd95 == pytest.approx(max(np.percentile(expected_there, 95), np.percentile(expected_back, 95)))
    both = np.concatenate([expected_there, expected_back])
    assert scores.asd == pytest.approx(both.mean())
    assert scores.nsd == pytest.approx((both <= 1.3).mean())


def test_far_apart_structures_reach_beyond_the_neighbourhood() -> None:
    first, second = np.zeros((2, 60, 20, 20), dtype=bool)
    first[1:4, 2:5, 3:9] = True
    second[55:58, 12:15, 9:11] = True
    for got, expected in zip(
        surface_distances(first, second, (0.7, 1.1, 3.0)), brute_distances(first, second, (0.7, 1.1, 3.0)), strict=True
    ):
        np.testing.assert_allclose(got, expected)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((24, 30, 18), (1.0, 1.0, 1.0)), ((24, 30, 18), (0.5, 0.8, 3.0)), ((40, 30), (1.0, 2.5))]
)
def test_equal_to_monai(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    """MONAI with use_subvoxels=False has the same surface and percentiles.

    It differs where a distance equals the tolerance up to rounding (it compares without a margin), on an
    image one voxel thick, and on an empty mask (inf or nan there; here the caller decides): not compared.
    """
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    first, second = random_masks(7, shape, 2.0)
    ours = surface_scores(first, second, spacing, 1.23)
    a, b = (torch.from_numpy(mask)[None, None].float() for mask in (first, second))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hd95 = metrics.compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
        asd = metrics.compute_average_surface_distance(a, b, include_background=True, symmetric=True, spacing=spacing)
        nsd = metrics.compute_surface_dice(a, b, [1.23], include_background=True, spacing=spacing)
    assert ours.hd95 == pytest.approx(float(hd95), rel=1e-5)
    assert ours.asd == pytest.approx(float(asd), rel=1e-5)
    assert ours.nsd == pytest.approx(float(nsd), rel=1e-5)


def test_a_mask_at_the_border_of_the_image_ends_there() -> None:
    assert surface(np.ones((3, 3, 3), dtype=bool)).sum() == 26


def test_a_distance_of_exactly_the_tolerance_is_within_it() -> None:
    first, second = np.zeros((2, 8, 8, 8), dtype=bool)
    first[2:5, 2:5, 2:5] = True
    second[3:6, 2:5, 2:5] = True
    spacing = float(np.float32(0.7))  # what an affine stored as float32 gives: 0.699999988
    for size in (spacing, 0.7 + 1e-8):
        assert surface_scores(first, second, (size,) * 3, 0.7).nsd == 1.0


def test_a_volume_of_one_slice_scores_as_its_picture() -> None:
    first, second = random_masks(3, (20, 25), 2.0)
    flat = surface_scores(first, second, (1.0, 2.0), 1.0)
    assert surface_scores(first[:, None], second[:, None], (1.0, 9.0, 2.0), 1.0) == flat


def test_an_empty_mask_is_refused() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    other = mask.copy()
    other[1, 1] = True
    with pytest.raises(ValueError, match="empty"):
        surface_scores(mask, other, (1, 1), 1)


def test_a_structure_in_one_slice_of_a_volume_has_a_surface_whatever_else_is_there():
    """As MONAI has it: seen by itself, cut to its slice, and beside a class in another slice."""
    shape, spacing = (20, 20, 6), (1.0, 1.0, 5.0)
    reference, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    reference[4:14, 5:15, 3], prediction[6:15, 5:14, 3] = 1, 1
    whole = surface_scores(prediction == 1, reference == 1, spacing, 1.0)
    alone = score_case(prediction, reference, spacing, {"a": 1})["a"]
    reference[2:5, 2:5, 5] = prediction[2:5, 2:5, 5] = 2
    beside = score_case(prediction, reference, spacing, {"a": 1, "b": 2})["a"]
    assert (alone.hd95, alone.asd, alone.nsd) == (beside.hd95, beside.asd, beside.nsd) == tuple(whole)
    picture = score_case(prediction[..., 3:4], reference[..., 3:4], spacing, {"a": 1})["a"]
    assert picture.asd > alone.asd  # a slice by itself has an outline
