"""Pointing game, overlap and thresholds against brute force, and what maps that know all or nothing score."""

import itertools
import math

import numpy as np
import pytest

from foveate.metrics.bootstrap import class_mean, draw_weights, interval
from foveate.metrics.localisation import (
    BINS,
    DRAWS,
    THRESHOLDS,
    Located,
    above,
    ball,
    best_threshold,
    centre_prior,
    iou,
    localisation_scores,
    locate,
    otsu,
    pointing,
)

SHAPES = {"picture": ((9, 12), (1.0, 1.0)), "thick slices": ((7, 6, 4), (0.7, 1.1, 3.0))}
every_shape = pytest.mark.parametrize(("shape", "spacing"), SHAPES.values(), ids=SHAPES)


def mask_and_map(shape, seed, part=0.06):
    random = np.random.default_rng(seed)
    mask = random.random(shape) < part
    mask[tuple(n // 2 for n in shape)] = True
    return mask, random.normal(size=shape)


def distance(a, b, spacing):
    return math.sqrt(sum(((i - j) * s) ** 2 for i, j, s in zip(a, b, spacing, strict=True)))


@every_shape
@pytest.mark.parametrize("tolerance", [0.0, 1.5, 3.0])
def test_pointing_is_the_distance_to_the_nearest_voxel_of_the_mask(shape, spacing, tolerance):
    hits = []
    for seed in range(40):
        mask, values = mask_and_map(shape, seed)
        place = max(itertools.product(*map(range, shape)), key=lambda p: values[p])
        nearest = min(distance(place, other, spacing) for other in np.argwhere(mask))
        hits.append(pointing(values, mask, spacing, tolerance))
        assert hits[-1] == (nearest <= tolerance)
    assert 0 < np.mean(hits) < 1


def test_a_voxel_at_the_tolerance_itself_hits():
    mask = np.zeros((1, 8), bool)
    mask[0, 0] = True
    values = np.eye(8)[3:4]
    assert pointing(values, mask, (1.0, 0.1), 0.3) == 1  # 3 * 0.1 > 0.3 as computers count
    assert pointing(values, mask, (1.0, 0.1), 0.29) == 0


def test_of_equal_maxima_the_share_counts_that_hits():
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    values = np.zeros((4, 4))
    values[0, 0] = values[3, 3] = values[0, 3] = values[3, 0] = 1
    assert pointing(values, mask, (1.0, 1.0), 0) == 0.25
    assert pointing(np.zeros((4, 4)), mask, (1.0, 1.0), 0) == 1 / 16


def test_iou_counts_voxels():
    a, b = mask_and_map((9, 12), 0, 0.3)[0], mask_and_map((9, 12), 1, 0.3)[0]
    both = sum(bool(a[p] and b[p]) for p in itertools.product(range(9), range(12)))
    either = sum(bool(a[p] or b[p]) for p in itertools.product(range(9), range(12)))
    assert 0 < both < either
    assert iou(a, b) == both / either
    assert iou(a, a) == 1
    assert iou(a, ~a) == 0


def test_a_map_without_evidence_marks_nothing():
    assert not above(np.full((3, 3), -1.0), 0.5).any()
    assert above(np.array([-3.0, 1.0, 2.0]), 0.5).tolist() == [False, True, True]


def test_the_threshold_is_the_best_of_all_and_the_scale_of_a_map_does_not_matter():
    cases = [mask_and_map((9, 12), seed, 0.2) for seed in range(4)]
    masks = [mask for mask, _ in cases]
    maps = [3.0**seed * (mask + 0.4 * values) for seed, (mask, values) in enumerate(cases)]

    def mean(threshold):
        return np.mean([iou(v >= threshold * v.max(), m) for v, m in zip(maps, masks, strict=True)])

    best = best_threshold(maps, masks)
    assert mean(best) == max(mean(t) for t in THRESHOLDS)
    assert mean(best) > mean(THRESHOLDS[0])
    assert mean(best) > mean(THRESHOLDS[-1])
    assert best == best_threshold([v / v.max() for v in maps], masks)


def test_otsu_divides_with_the_least_variance_inside_the_groups():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(1, 0.2, 300), random.normal(4, 0.5, 60), [-5.0]])
    threshold = otsu(values)
    shares = np.floor(values[values > 0] / values.max() * BINS).clip(max=BINS - 1)  # as the histogram sees them

    def within(t):
        groups = shares[shares < t * BINS], shares[shares >= t * BINS]
        return sum(len(group) * group.var() for group in groups if len(group))

    assert within(threshold) == pytest.approx(min(within(n / BINS) for n in range(1, BINS)), rel=1e-9)
    assert 1.6 < threshold * values.max() < 3.2
    assert otsu(7 * values) == pytest.approx(threshold)
    assert otsu(np.zeros(5)) == otsu(np.ones(5)) == otsu(-np.ones(5)) == 0


def test_otsu_of_two_values_lies_between_them():
    assert otsu(np.array([1.0, 1.0, 1.0, 5.0])) == pytest.approx(0.6, abs=0.01)


@every_shape
def test_the_centre_prior_falls_with_the_distance_from_the_middle(shape, spacing):
    prior, middle = centre_prior(shape, spacing), [(n - 1) / 2 for n in shape]
    places = sorted(itertools.product(*map(range, shape)), key=lambda p: distance(p, middle, spacing))
    assert (np.diff([prior[p] for p in places]) < 1e-12).all()
    assert prior.min() == pytest.approx(0)
    assert prior[tuple(n // 2 for n in shape)] == prior.max() <= 1


@every_shape
def test_a_ball_is_the_nearest_voxels(shape, spacing):
    centre = tuple(n // 3 for n in shape)
    found = ball(centre, shape, spacing, 11)
    distances = sorted(distance(p, centre, spacing) for p in itertools.product(*map(range, shape)))
    inside = sorted(distance(p, centre, spacing) for p in np.argwhere(found))
    assert inside == pytest.approx(distances[:11])


@every_shape
def test_scores_of_one_case(shape, spacing):
    mask, values = mask_and_map(shape, 3)
    within = np.zeros(shape, bool)
    within[1:, 1:-1] = True
    found = locate("a", values, mask, spacing, threshold=0.4, tolerance=1.2, within=within)
    assert found.patient == "a"
    assert found.pointing["map"] == pointing(values, mask, spacing, 1.2)
    assert found.iou["map"] == iou(above(values, 0.4), mask)
    near = [min(distance(p, q, spacing) for q in np.argwhere(mask)) <= 1.2 for p in np.argwhere(within)]
    assert found.pointing["random"] == pytest.approx(np.mean(near))
    # The overlap with a random ball is a mean over draws of that over all places.
    every = [iou(ball(p, shape, spacing, mask.sum()), mask) for p in np.argwhere(within)]
    assert found.iou["random"] == pytest.approx(np.mean(every), abs=4 * np.std(every) / DRAWS**0.5)
    middle = [(n - 1) / 2 for n in shape]
    ranked = sorted(distance(p, middle, spacing) for p in itertools.product(*map(range, shape)))
    tied = [p for p in itertools.product(*map(range, shape)) if distance(p, middle, spacing) < ranked[0] + 1e-9]
    hits = [min(distance(p, q, spacing) for q in np.argwhere(mask)) <= 1.2 for p in tied]
    assert found.pointing["centre"] == np.mean(hits)


def test_a_map_that_knows_the_mask_scores_one():
    mask, _ = mask_and_map((9, 12), 0)
    found = locate("a", mask.astype(float), mask, (1.0, 1.0), threshold=0.5, tolerance=0)
    assert found.pointing["map"] == found.iou["map"] == 1
    assert found.pointing["random"] == mask.mean()


@pytest.mark.parametrize("mask", [np.zeros((3, 3), bool), np.ones((3, 4), bool)])
def test_nothing_to_find_is_refused(mask):
    with pytest.raises(ValueError, match=r"a: a map \(3, 3\)"):
        locate("a", np.zeros((3, 3)), mask, (1.0, 1.0), threshold=0.5, tolerance=0)


def test_intervals_resample_patients_and_not_cases():
    random = np.random.default_rng(0)
    rows = [
        Located(f"{n}", f"{n // 4}", *[{"map": v, "random": 0.1, "centre": 0.2} for v in pair])
        for n, pair in enumerate(zip(random.integers(0, 2, 24).astype(float), random.random(24), strict=True))
    ]
    found = localisation_scores(rows)
    assert found["pointing"] == np.mean([row.pointing["map"] for row in rows])
    assert (found["iou_random"], found["iou_centre"]) == (pytest.approx(0.1), pytest.approx(0.2))
    values = np.array([[row.iou["map"]] for row in rows])
    weights = draw_weights([row.patient for row in rows])
    assert found["iou_interval"] == list(interval(class_mean(values, weights)))
    assert found["iou_interval"] != list(interval(class_mean(values, draw_weights([row.case for row in rows]))))
    assert set(found) == {
        f"{name}{end}{last}"
        for name in ("pointing", "iou")
        for end in ("", "_random", "_centre")
        for last in ("", "_interval")
    }
