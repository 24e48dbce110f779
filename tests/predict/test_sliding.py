"""The sliding window equals a plain dense computation, however little memory it is given."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from foveate.batches.grid import linear_taps
from foveate.predict import resample
from foveate.predict.resample import Restorer
from foveate.predict.sliding import Scan, divide, gaussian_weights, place_windows, roll


@pytest.mark.parametrize("shape", [(5, 70), (33, 64), (64, 65), (200, 31)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_windows_cover_every_voxel(shape, overlap):
    windows = place_windows(shape, (32, 32), overlap)
    seen = torch.zeros(windows.padded)
    for corner in itertools.product(*windows.starts):
        assert all(0 <= first <= n - 32 for first, n in zip(corner, windows.padded, strict=True))
        seen[tuple(slice(first, first + 32) for first in corner)] += 1
    assert seen.min() >= 1
    for starts in windows.starts:
        steps = [b - a for a, b in itertools.pairwise(starts)]
        assert all(step <= 32 * (1 - overlap) + 1 for step in steps)


def test_gaussian_weights_are_symmetric_separable_and_never_zero():
    weights = gaussian_weights((16, 11, 8))
    assert weights.shape == (16, 11, 8)
    for axis in range(3):
        torch.testing.assert_close(weights, weights.flip(axis))
    assert weights.min() > 0
    assert weights[5, 5, 4] > weights[5, 5, 7] > weights[0, 5, 7]
    # the sum of a Gaussian of deviation n / 8 within n voxels is sqrt(2 pi) n / 8 per axis, and this clips little
    expected = torch.tensor((16.0, 11.0, 8.0)).mul((2 * torch.pi) ** 0.5 / 8).prod()
    assert float(weights.sum()) == pytest.approx(float(expected), rel=0.01)


def restored(image, shape, windows, channels, network, budget, batch=2):
    """Logits ``[K, *shape]`` by way of columns, rolling sums and slabs."""
    taps = [linear_taps(m, n) for m, n in zip(image.shape[1:], shape, strict=True)]
    out = torch.zeros(channels, *shape)
    axis, columns = divide(windows, taps, channels, budget)
    scan = Scan(image, windows, channels, network, batch, torch.device("cpu"))
    for k in range(channels):
        for column in columns:
            roll(
                scan, column, axis, Restorer(column, axis, taps, windows.before, lambda x, k=k: x[:, k], out[k].numpy())
            )
    return out, len(columns)


def dense(image, shape, windows, channels, network):
    sums, weights = torch.zeros(channels, *windows.padded), torch.zeros(windows.padded)
    after = [n - b - s for n, b, s in zip(windows.padded, windows.before, image.shape[1:], strict=True)]
    pairs = zip(reversed(windows.before), reversed(after), strict=True)
    padded = functional.pad(image, [n for pair in pairs for n in pair])
    for corner in itertools.product(*windows.starts):
        place = (slice(None), *(slice(first, first + n) for first, n in zip(corner, windows.size, strict=True)))
        importance = gaussian_weights(windows.size)
        sums[place] += network(padded[place][None])[0] * importance
        weights[place[1:]] += importance
    inner = tuple(slice(b, b + n) for b, n in zip(windows.before, image.shape[1:], strict=True))
    logits = (sums / weights)[(slice(None), *inner)]
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return functional.interpolate(logits[None], shape, mode=mode, align_corners=False)[0]


@pytest.mark.parametrize(
    ("prepared", "shape", "size"),
    [
        ((40, 33, 27), (40, 33, 27), (16, 16, 16)),  # the input's own spacing
        ((40, 33, 27), (61, 30, 14), (16, 16, 16)),  # finer, a little coarser, coarser
        ((9, 33, 50), (25, 70, 31), (16, 16, 16)),  # smaller than the window on one axis
        ((7, 6, 5), (12, 9, 5), (8, 8, 8)),  # one window
        ((45, 70), (91, 35), (16, 32)),
    ],
)
def test_result_does_not_depend_on_the_division(prepared, shape, size, monkeypatch):
    torch.manual_seed(0)
    dims, channels = len(shape), 4
    layer = (nn.Conv2d if dims == 2 else nn.Conv3d)(1, channels, 5, padding=2)
    image = torch.randn(1, *prepared)
    windows = place_windows(prepared, size, 0.5)
    with torch.no_grad():
        expected = dense(image, shape, windows, channels, layer)
        columns = []
        for budget, slab in ((1 << 30, 1 << 26), (60_000, 3000), (2_000, 1)):
            monkeypatch.setattr(resample, "SLAB", slab)
            found, count = restored(image, shape, windows, channels, layer, budget)
            columns.append(count)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert columns[-1] > 4 > columns[0]


def test_division_keeps_to_the_budget_and_computes_little_twice():
    windows = place_windows((512, 512, 300), (96, 96, 96), 0.5)
    taps = [linear_taps(n, n) for n in (512, 512, 300)]
    total = len(windows.starts[0]) * len(windows.starts[1]) * len(windows.starts[2])
    for channels, most in ((5, 1.0), (60, 2.0)):
        axis, columns = divide(windows, taps, channels, 3 << 28)
        for column in columns:
            shape = [high - low for low, high in column.box]
            shape[axis] = 97
            assert 4 * channels * shape[0] * shape[1] * shape[2] < 3 << 28
        computed = 0
        for column in columns:
            touching = [len(windows.touching(a, *column.box[a])) for a in range(3)]
            computed += touching[0] * touching[1] * touching[2]
        assert computed <= most * total
