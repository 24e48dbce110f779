"""Pieces of label maps against a flood fill by hand, and which structures the labels show in one."""

import itertools

import numpy as np
import pytest

from foveate.predict.pieces import FEWEST, keep_largest_pieces, of_one_piece, open_smaller_pieces


def flood(mask):
    """The pieces of a mask as sets of voxels, neighbours over corners included, by flood fill."""
    left = {tuple(int(i) for i in place) for place in np.argwhere(mask)}
    steps = list(itertools.product((-1, 0, 1), repeat=mask.ndim))
    pieces = []
    while left:
        front, piece = [left.pop()], set()
        while front:
            place = front.pop()
            piece.add(place)
            near = {tuple(a + b for a, b in zip(place, step, strict=True)) for step in steps} & left
            left -= near
            front += near
        pieces.append(piece)
    return sorted(pieces, key=len, reverse=True)


def scattered(shape, shares, seed):
    """Label maps of three values at random, and the pieces of value 1, of which one is the largest."""
    random, found = np.random.default_rng(seed), []
    for _ in range(30):
        labels = random.choice(3, shape, p=shares).astype(np.uint8)
        pieces = flood(labels == 1)
        if len(pieces) > 1 and len(pieces[0]) > len(pieces[1]):
            found.append((labels, pieces))
    assert len(found) > 10
    return found


def small(pieces):
    """Those of fewer than half the voxels of the largest."""
    return [piece for piece in pieces if len(piece) < len(pieces[0]) / 2]


in_2d_and_3d = pytest.mark.parametrize("shape", [(12, 15), (7, 8, 9)], ids=["2d", "3d"])


@in_2d_and_3d
def test_what_lies_apart_from_the_largest_piece_is_left_open(shape):
    for labels, pieces in scattered(shape, (0.9, 0.06, 0.04), 0):
        expected, rivals = labels.copy(), len(pieces[1]) >= len(pieces[0]) / 2
        for place in set.union(*pieces[0 if rivals else 1 :]):  # no size says which of the two is the structure
            expected[place] = 255
        assert np.array_equal(open_smaller_pieces(labels, {"one": 1}), expected)
        assert np.array_equal(open_smaller_pieces(labels, {}), labels)


@in_2d_and_3d
def test_a_smaller_piece_becomes_what_surrounds_it(shape):
    steps = list(itertools.product((-1, 0, 1), repeat=len(shape)))
    for labels, pieces in scattered(shape, (0.45, 0.05, 0.5), 1):
        expected, clear = labels.copy(), np.ones(shape, bool)
        for piece in small(pieces):
            ring = {tuple(a + b for a, b in zip(place, step, strict=True)) for place in piece for step in steps} - piece
            around = [labels[at] for at in ring if all(0 <= i < n for i, n in zip(at, shape, strict=True))]
            counts = np.bincount(around, minlength=3)
            for place in piece:
                expected[place] = counts.argmax()
                clear[place] = counts[0] != counts[2]  # a draw may fall either way
        found, left_out, rivals = keep_largest_pieces(labels, {"one": 1})
        assert left_out == ["one"] * bool(small(pieces))
        assert rivals == ["one"] * (len(pieces) - len(small(pieces)) > 1)
        assert np.array_equal(found[clear], expected[clear])
        assert not np.isin(found[~clear], 1).any()
        again, unchanged, still = keep_largest_pieces(found, {"one": 1, "absent": 7})
        assert np.array_equal(again, found)
        assert unchanged == []
        assert still == rivals


def test_a_region_is_one_structure_whatever_values_it_joins():
    labels = np.array([[1, 2, 1, 0, 2, 0, 1]], np.uint8)
    assert open_smaller_pieces(labels, {"whole": (1, 2)}).tolist() == [[1, 2, 1, 0, 255, 0, 255]]


def test_labels_say_which_structures_are_of_one_piece():
    whole, apart = np.zeros((2, 20, 20), np.uint8)
    whole[2:12, 2:12] = 1
    whole[15, 15] = 1  # a slip of the mouse is one voxel in a hundred
    whole[0, :4] = 2
    apart[2:6, 2:6] = apart[8:12, 8:12] = 2
    classes = {"one": 1, "two": 2, "never seen": 3, "both": (1, 2)}
    assert of_one_piece([whole] * FEWEST, classes) == {"one": 1, "two": 2}
    assert of_one_piece([*[whole] * FEWEST, apart], classes) == {"one": 1}
    assert of_one_piece([whole] * (FEWEST - 1), classes) == {}, "too few to tell"
    assert of_one_piece([], classes) == {}
