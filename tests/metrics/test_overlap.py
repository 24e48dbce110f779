import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.metrics.overlap import count_pairs, dice_per_class, values_present


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_dice_is_that_of_the_masks_taken_one_by_one(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, reference = rng.integers(0, n + 1, (2, 7, 11, 5))
    expected = []
    for value in range(1, n + 1):
        a, b = prediction == value, reference == value
        expected.append(2 * (a & b).sum() / (a.sum() + b.sum()) if a.any() or b.any() else np.nan)
    np.testing.assert_allclose(dice_per_class(prediction, reference, n), expected)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.0])
def test_blocks_join_without_a_gap(share: float) -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 14, (2, 3 * (1 << 16) + 17)).astype(np.uint8)
    rows[rng.random(rows.size) >= share] = 0
    columns[rng.random(rows.size) >= share] = 0
    counts = count_pairs(rows, columns, 14)
    assert counts.sum() == rows.size
    assert counts[0, 0] == ((rows == 0) & (columns == 0)).sum()
    assert counts[3, 5] == ((rows == 3) & (columns == 5)).sum()


@pytest.mark.parametrize("n", [16, 17, 256, 257])
def test_codes_do_not_overflow_their_type(n: int) -> None:
    labels = np.array([0, n - 1, n - 1], dtype=np.uint16)
    counts = count_pairs(labels, labels, n)
    assert counts[n - 1, n - 1] == 2
    assert counts.sum() == 3


def test_ignored_voxels_do_not_count() -> None:
    reference = np.array([1, 1, 255, 0], dtype=np.uint8)
    prediction = np.array([1, 1, 1, 0], dtype=np.uint8)
    assert dice_per_class(prediction, reference, 1).tolist() == [1.0]


@pytest.mark.parametrize(
    ("prediction", "reference"), [([0, 3], [0, 1]), ([0, 1], [0, 3]), ([0, -1], [0, 1]), ([0, 1], [255, 3])]
)
def test_values_outside_the_classes_are_refused(prediction: list[int], reference: list[int]) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        dice_per_class(np.array(prediction), np.array(reference), 2)


@pytest.mark.parametrize("values", [[0, 0, 5, -3], [0, 100_000, 100_000], []])
def test_values_present(values: list[int]) -> None:
    assert values_present(np.array(values, dtype=np.int32)) == {v: values.count(v) for v in set(values)}
