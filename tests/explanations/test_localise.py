"""From evidence to a mask and boxes."""

import numpy as np
import pytest

from foveate.explanations.localise import Threshold, boxes
from foveate.metrics.localisation import best_threshold, otsu


@pytest.mark.parametrize("dims", [2, 3])
def test_every_part_gets_its_box_and_the_strongest_comes_first(dims: int) -> None:
    values = np.zeros((12, 10, 8)[:dims])
    parts = [tuple(slice(1 + axis, 3 + axis) for axis in range(dims)), tuple(slice(6, 6 + n) for n in (3, 2, 1)[:dims])]
    values[parts[0]], values[parts[1]] = 1, 2
    found = boxes(values > 0, values)
    assert [entry["highest"] for entry in found] == [2, 1]
    for entry, part in zip(found, parts[::-1], strict=True):
        assert (entry["low"], entry["high"]) == ([s.start for s in part], [s.stop for s in part])


def test_the_box_of_a_part_does_not_know_what_lies_in_its_corner() -> None:
    values = np.array([[1.0, 0, 9], [1, 0, 0], [1, 1, 1]])  # an L, and another part within its box
    assert [entry["highest"] for entry in boxes(values > 0, values)] == [9, 1]


def test_nothing_marked_no_box() -> None:
    assert boxes(np.zeros((4, 4), bool), np.ones((4, 4))) == []
    assert not Threshold(0.5).mask(-np.ones((4, 4))).any()


def test_the_threshold_is_chosen_where_there_are_masks_and_otsu_elsewhere() -> None:
    random = np.random.default_rng(0)
    masks = [random.random((8, 8)) < 0.2 for _ in range(3)]
    maps = [mask + random.random((8, 8)) for mask in masks]
    chosen, alone = Threshold.chosen(maps, masks), Threshold.chosen([], [])
    assert chosen.share == best_threshold(maps, masks)
    assert chosen.summary()["chosen_by"] == "best overlap on 3 cases with masks"
    np.testing.assert_array_equal(chosen.mask(maps[0]), maps[0] >= chosen.share * maps[0].max())
    assert alone.share is None
    assert "Otsu" in alone.summary()["chosen_by"]
    np.testing.assert_array_equal(alone.mask(maps[0]), maps[0] >= otsu(maps[0]) * maps[0].max())
