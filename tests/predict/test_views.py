"""A view turns and zooms an image about its centre in mm, and brings an answer back to where it belongs."""

import math

import pytest
import torch

from foveate.predict.views import ROTATION, ZOOM, View, draw_views


def blob(size, centre_mm, spacing):
    """A smooth ball of 6 mm around ``centre_mm`` from the middle of the image: ``[1, 1, *size]``."""
    axes = [(torch.arange(n) - (n - 1) / 2) * s - c for n, s, c in zip(size, spacing, centre_mm, strict=True)]
    return torch.exp(-sum(a**2 for a in torch.meshgrid(*axes, indexing="ij")) / (2 * 6.0**2))[None, None]


def centroid_mm(image, spacing):
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(image.shape[2:], spacing, strict=True)]
    return [float((image[0, 0] * a).sum() / image.sum()) for a in torch.meshgrid(*axes, indexing="ij")]


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 2.5, 0.8)])
def test_what_a_view_shows_lies_where_its_matrix_says(spacing):
    size, dims = [round(60 / s) for s in spacing], len(spacing)
    place = torch.tensor([6.0, -4.0, 5.0][:dims])
    for view in draw_views(3, spacing, (), seed=1):
        shown = view.of(blob(size, place.tolist(), spacing))
        expected = torch.linalg.solve(view.matrix, place)  # offset in the view -> offset in the image
        assert centroid_mm(shown, spacing) == pytest.approx(expected.tolist(), abs=0.3)


@pytest.mark.parametrize("mirror_axes", [(), (0,)])
def test_back_undoes_of_for_every_image_of_a_batch(mirror_axes):
    spacing, size = (1.0, 2.0, 1.0), (48, 24, 40)
    images = torch.cat([blob(size, place, spacing) for place in [(0, 0, 0), (5, 4, -3)]])
    for view in draw_views(3, spacing, mirror_axes, seed=0):
        assert (view.back(view.of(images)) - images).abs().max() < 0.06


def test_an_answer_that_a_view_did_not_see_is_its_nearest_one():
    view = View(torch.eye(2) * 2, (1.0, 1.0))  # zooms out: the border of the view is empty
    assert torch.equal(View(torch.eye(2) / 2, (1.0, 1.0)).back(torch.ones(1, 1, 8, 8)), torch.ones(1, 1, 8, 8))
    assert view.of(torch.ones(1, 1, 8, 8))[0, 0, 0, 0] == 0


def test_views_stay_within_their_ranges_and_follow_from_the_seed():
    views = draw_views(50, (1.0, 1.0, 1.0), (), seed=3)
    zooms = torch.stack([view.matrix.norm(dim=0) for view in views])
    assert (zooms.log().abs() <= math.log1p(ZOOM) + 1e-5).all()
    assert zooms.std() > 0.02
    for view in views:
        turn = view.matrix / view.matrix.norm(dim=0)
        angle = math.degrees(math.acos(min((float(turn.trace()) - 1) / 2, 1.0)))
        assert angle <= math.sqrt(3) * ROTATION + 0.5
    again = draw_views(50, (1.0, 1.0, 1.0), (), seed=3)
    assert all(torch.equal(a.matrix, b.matrix) for a, b in zip(views, again, strict=True))
    assert not torch.equal(draw_views(1, (1.0, 1.0, 1.0), (), seed=4)[0].matrix, views[0].matrix)
