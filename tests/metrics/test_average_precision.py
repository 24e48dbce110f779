"""Average precision and FROC against definitions written out, and by cases whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from foveate.metrics.bootstrap import draw_weights, interval
from foveate.metrics.boxes import score_boxes
from foveate.metrics.detection import (
    FALSE_POSITIVES,
    THRESHOLDS,
    ImageBoxes,
    average_precision,
    match_class,
    match_image,
    sensitivities,
)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    dims = len(a) // 2
    sides = np.minimum(a[dims:], b[dims:]) - np.maximum(a[:dims], b[:dims])
    both = float(np.prod(np.clip(sides, 0, None)))
    return both / (float(np.prod(a[dims:] - a[:dims])) + float(np.prod(b[dims:] - b[:dims])) - both)


def random_images(dims: int, seed: int, count: int = 6) -> list[ImageBoxes]:
    """Structures, boxes near some of them and boxes anywhere, of two classes; scores of a few values, so that some are
    equal; some structures are ignored."""
    random = np.random.default_rng(seed)
    images = []
    for number in range(count):
        low = random.uniform(0, 60, (random.integers(1, 6), dims))
        truth = np.concatenate([low, low + random.uniform(8, 20, low.shape)], 1)
        near = truth[random.integers(0, len(truth), 6)] + random.normal(0, 2, (6, 2 * dims))
        low = random.uniform(0, 60, (4, dims))
        found = np.concatenate([near, np.concatenate([low, low + 10], 1)])
        images.append(
            ImageBoxes(
                f"case {number}",
                f"patient {number // 2}",
                truth,
                random.integers(0, 2, len(truth)),
                random.random(len(truth)) < 0.2,
                found,
                random.integers(0, 2, len(found)),
                random.integers(1, 30, len(found)) / 30,
            )
        )
    return images


def by_hand(images: list[ImageBoxes], number: int, threshold: float) -> tuple[float, list[tuple[float, bool]], int]:
    """(AP, [(score, right)] of the boxes that count, structures), one box and one structure at a time."""
    rows, structures = [], 0
    for item in images:
        taken: set[int] = set()
        mine = [i for i in range(len(item.found)) if item.found_classes[i] == number]
        there = [j for j in range(len(item.truth)) if item.truth_classes[j] == number]
        structures += sum(not item.ignored[j] for j in there)
        for i in sorted(mine, key=lambda i: -item.scores[i]):
            reach = [j for j in there if j not in taken and overlap(item.found[i], item.truth[j]) >= threshold]
            real = [j for j in reach if not item.ignored[j]]
            if real:
                best = max(real, key=lambda j: overlap(item.found[i], item.truth[j]))
                taken.add(best)
                rows.append((float(item.scores[i]), True))
            elif not reach:
                rows.append((float(item.scores[i]), False))
    rows.sort(key=lambda row: -row[0])
    curve, right = [], 0
    for shown, (_, good) in enumerate(rows, 1):
        right += good
        curve.append((right / structures, right / shown))
    best = [max([p for r, p in curve if r >= recall], default=0.0) for recall in np.linspace(0, 1, 101)]
    return float(np.mean(best)), rows, structures


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_precision_and_sensitivity_are_those_of_the_definition(dims: int, seed: int) -> None:
    images = random_images(dims, seed)
    for number in (0, 1):
        matches = match_class(images, number)
        precision = average_precision(matches)[0]
        for t, threshold in enumerate(THRESHOLDS):
            expected, rows, structures = by_hand(images, number, threshold)
            assert precision[t] == pytest.approx(expected)
            found = []
            for allowed in FALSE_POSITIVES:
                # Every score is a place to stop; the best sensitivity of those that allow no more false ones counts.
                stops = [0.0] + [
                    sum(good for score, good in rows if score >= stop) / structures
                    for stop, _ in rows
                    if sum(not good for score, good in rows if score >= stop) <= allowed * len(images)
                ]
                found.append(max(stops))
            assert sensitivities(matches, threshold=t)[0] == pytest.approx(found)
    assert 0 < precision[0] < 1


def test_resampling_images_is_the_same_as_listing_them_again() -> None:
    random = np.random.default_rng(0)
    # Boxes of one score are shown in the order of their images, which listing them again would change.
    images = [replace(item, scores=random.random(len(item.scores))) for item in random_images(2, 5)]
    times = np.array([[2.0, 0, 1, 3, 0, 1]])
    again = [item for item, count in zip(images, times[0].astype(int), strict=True) for _ in range(count)]
    for number in (0, 1):
        weighted, listed = match_class(images, number), match_class(again, number)
        np.testing.assert_allclose(average_precision(weighted, times), average_precision(listed))
        np.testing.assert_allclose(sensitivities(weighted, times), sensitivities(listed))


def test_a_structure_is_found_once_and_the_surest_box_has_it() -> None:
    truth = np.array([[0.0, 0, 10, 10]])
    found = np.array([[0.0, 0, 10, 9], [0, 0, 10, 10]])
    right, counts = match_image(found, np.array([0.9, 0.8]), truth, np.array([False]), [0.5])
    assert right.tolist() == [[True, False]]
    assert counts.all()
    right, counts = match_image(found, np.array([0.9, 0.8]), truth, np.array([True]), [0.5])
    assert not right.any()
    assert not counts.any()  # of an ignored structure neither box is right or wrong


def test_perfect_boxes_have_ap_one_and_none_have_zero() -> None:
    box = np.array([[0.0, 0, 10, 10]])
    kinds, clear = np.zeros(1, int), np.zeros(1, bool)
    nothing = np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)
    perfect = ImageBoxes("a", "a", box, kinds, clear, box, kinds, np.ones(1))
    negative = ImageBoxes("b", "b", *nothing[:2], np.zeros(0, bool), *nothing)
    found = score_boxes([perfect, negative], {"cell": 0})
    for key in ("ap", "ap50", "ap75/cell", "froc", "sensitivity_at_0.125_fp"):
        assert found[key].value == pytest.approx(1)
    found = score_boxes([ImageBoxes("a", "a", box, kinds, clear, *nothing)], {"cell": 0, "absent": 1})
    assert found["ap"].value == found["froc"].value == 0
    assert np.isnan(found["ap/absent"].value)
    assert np.isnan(found["ap50"].low)  # one patient
    assert found.cases[0]["missed"] == 1


def test_intervals_resample_patients() -> None:
    images = random_images(2, 7, count=8)
    found = score_boxes(images, {"one": 0, "other": 1})
    weights = draw_weights([item.patient for item in images])
    place = THRESHOLDS.index(0.5)
    each = np.stack([average_precision(match_class(images, number), weights)[:, place] for number in (0, 1)])
    assert found["ap50"][1:] == pytest.approx(interval(np.nanmean(each, axis=0)))
    assert found["ap50"].low < found["ap50"].value < found["ap50"].high
