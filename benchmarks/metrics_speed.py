"""Surface distances and Dice beside MONAI, on the same masks in one run, with one thread.

    python benchmarks/metrics_speed.py [--repeats 5] [--size 256 256 128]

HD95 + NSD: one structure, wrinkled, against a copy that is moved and wrinkled anew; MONAI's two functions get the
masks as they want them, conversion not counted. Dice: 13 classes; MONAI needs one-hot maps, and making them counts,
because label maps are what there is. Values must agree before a time is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from monai.networks.utils import one_hot
from scipy.ndimage import zoom

from common import commit, machine, markdown_table, write_section
from foveate.metrics.overlap import dice_per_class
from foveate.metrics.surface import surface_scores

SPACING = (0.8, 0.8, 1.5)
TOLERANCE = 1.1
CLASSES = 13


def ellipsoid(
    shape: Sequence[int], centre: Sequence[float], radii: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """A mask whose border is pushed in and out by up to a few voxels."""
    grid = np.ogrid[tuple(slice(0, length) for length in shape)]
    distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True))
    wrinkles = zoom(rng.normal(0, 0.06, (17, 17, 9)), np.array(shape) / (17, 17, 9), order=1)
    return np.asarray(distance + wrinkles < 1)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median processor time of ``repeats`` runs after one that is not counted: other programs do not matter."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def surfaces(shape: Sequence[int], repeats: int) -> tuple[float, float]:
    """Seconds of HD95 + NSD: here, MONAI. The structure spans half of the image on each axis."""
    rng = np.random.default_rng(0)
    centre, radii = np.array(shape) / 2, np.array(shape) / 4
    reference = ellipsoid(shape, centre, radii, rng)
    prediction = ellipsoid(shape, centre + 1.5, radii * 0.98, rng)
    a, b = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference))

    def monai() -> tuple[float, float]:
        hd95 = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=SPACING)
        nsd = compute_surface_dice(a, b, [TOLERANCE], include_background=True, spacing=SPACING)
        return float(hd95), float(nsd)

    def ours() -> tuple[float, float]:
        scores = surface_scores(prediction, reference, SPACING, TOLERANCE)
        return scores.hd95, scores.nsd

    np.testing.assert_allclose(ours(), monai(), rtol=1e-5)
    print(f"HD95 {ours()[0]:.3f} mm, NSD {ours()[1]:.4f} by both", flush=True)
    return seconds(ours, repeats), seconds(monai, repeats)


def overlaps(shape: Sequence[int], repeats: int) -> tuple[float, float]:
    """Seconds of the Dice of 13 classes: here, MONAI."""
    rng = np.random.default_rng(1)
    reference, prediction = np.zeros((2, *shape), dtype=np.uint8)
    for value in range(1, CLASSES + 1):
        centre, radii = rng.uniform(0.15, 0.85, 3) * shape, np.array(shape) / 10
        reference[ellipsoid(shape, centre, radii, rng)] = value
        prediction[ellipsoid(shape, centre + 1, radii, rng)] = value
    maps = [torch.from_numpy(labels)[None, None] for labels in (prediction, reference)]

    def monai() -> np.ndarray:
        a, b = (one_hot(labels, CLASSES + 1) for labels in maps)
        return np.asarray(compute_dice(a, b, include_background=False)[0])

    np.testing.assert_allclose(dice_per_class(prediction, reference, CLASSES), monai(), rtol=1e-5)
    return seconds(lambda: dice_per_class(prediction, reference, CLASSES), repeats), seconds(monai, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=3, default=(256, 256, 128))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    size = " x ".join(map(str, arguments.size))
    rows = []
    for name, measure, mark in (
        (f"HD95 + NSD, {size}", surfaces, 5),
        (f"Dice of {CLASSES} classes, {size}", overlaps, 100),
    ):
        here, peer = measure(tuple(arguments.size), arguments.repeats)
        rows.append((name, f"{here * 1e3:.1f} ms", f"{peer * 1e3:.0f} ms", f"{peer / here:.1f}x", f"{mark}x"))
    text = f"""{markdown_table(("", "Foveate", "MONAI", "ratio", "mark"), rows)}

`python benchmarks/metrics_speed.py --repeats {arguments.repeats} --size {size.replace(" x", "")}` · median processor
time of {arguments.repeats} runs · commit {commit()} · {machine(1)}"""
    print(text)
    write_section("metrics", text)


if __name__ == "__main__":
    main()
