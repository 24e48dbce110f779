"""Dice with every part of the modalities, by one network that takes any of them and one that needs all.

    python benchmarks/modalities.py [--minutes 5] [--modalities T1 T2 FLAIR] [--cases 20]

Training is measured in the processor's time of one thread, so that other work on the machine does not disturb.

The scans at hand that have labels come with one sequence, so the others are simulated from the T1-weighted scans of the
hippocampus. Each voxel's intensity, between those of tissue like fluid, grey and white matter, is read as a mixture and
given relaxation times and a proton density (about those at 3 T) by smooth interpolation; the spin-echo and the
inversion-recovery equation then make T2, PD and FLAIR of them, of which the last rises and falls with the T1-weighted
intensity. Every modality, T1 too, has its own resolution along one axis, bias field and Rician noise.

What this is not: all modalities follow from one scan, so none shows what T1 does not; a real FLAIR shows lesions that
T1 hides, and modalities of real patients are not perfectly registered. What it does test is whether one network makes
use of independent views of noisy anatomy, and how it degrades when some are absent.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

import foveate
from common import ROOT, RUNS, commit, data_folder, machine, markdown_table, write_section
from foveate.cohort.layouts import read_ids
from foveate.io import read_image, read_label, write_label
from foveate.metrics.bootstrap import draw_weights, interval
from foveate.predict.predictor import Predictor

LABELLED = 8
CLASSES = {"anterior": 1, "posterior": 2}
# Percentiles of a scan's intensities that stand for fluid, grey and white matter, with what each is taken to have.
TISSUES = (5, 50, 95)
T1, T2, PROTONS = (4000.0, 1400.0, 850.0), (1500.0, 100.0, 70.0), (1.0, 0.85, 0.7)  # ms, ms, share of water
# Repetition, echo and inversion time in ms, and the axis along which slices are thick.
SEQUENCES = {"T2": (5000, 90, None, 2), "FLAIR": (9000, 90, 2500, 0), "PD": (3000, 20, None, 1)}
MODALITIES = ("T1", *SEQUENCES)
THICK = 0.8  # voxels, deviation of the point spread along that axis
NOISE = 0.08  # of the range between the percentiles 0.5 and 99.5
BIAS = 0.15  # deviation of the logarithm of the bias field


def simulate(scan: np.ndarray, modality: str, random: np.random.Generator) -> np.ndarray:
    """A T1-weighted scan ``[*S]`` as ``modality`` would show it, float32 of arbitrary units."""
    image = scan.astype(np.float64)
    axis = 1
    if modality != "T1":
        repetition, echo, inversion, axis = SEQUENCES[modality]
        knots = np.percentile(image, TISSUES)
        tissue = np.interp(image, knots, (0.0, 1.0, 2.0))
        t1, t2, protons = (PchipInterpolator((0, 1, 2), np.log(values))(tissue) for values in (T1, T2, PROTONS))
        t1, t2, protons = np.exp(t1), np.exp(t2), np.exp(protons)
        recovered = 1 - np.exp(-repetition / t1)
        if inversion is not None:
            recovered = np.abs(1 - 2 * np.exp(-inversion / t1) + np.exp(-repetition / t1))
        image = protons * recovered * np.exp(-echo / t2)
    image = ndimage.gaussian_filter1d(image, THICK, axis=axis)
    low, high = np.percentile(image, (0.5, 99.5))
    image = np.clip((image - low) / (high - low), 0, None)
    knots = random.normal(0, BIAS, (3, 3, 3))
    where = np.meshgrid(*[np.linspace(0, 2, n) for n in image.shape], indexing="ij")
    image = image * np.exp(ndimage.map_coordinates(knots, where, order=1))
    real, imaginary = random.normal(0, NOISE, (2, *image.shape))
    return (1000 * np.hypot(image + real, imaginary)).astype(np.float32)


def scanned(case: str, modality: str) -> np.ndarray:
    """A modality of a case; the same noise and bias whenever it is asked for."""
    scan = read_image([data_folder("hippocampus") / "images" / f"{case}.nii.gz"]).array[0]
    return simulate(scan, modality, np.random.default_rng(zlib.crc32(f"{case} {modality}".encode())))


def write_cohort(folder: Path, cases: list[str], modalities: list[str]) -> Path:
    """The labelled cases in nnU-Net's layout, which names the modalities."""
    source = data_folder("hippocampus")
    (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
    about = {
        "channel_names": {str(number): name for number, name in enumerate(modalities)},
        "labels": {"background": 0, **CLASSES},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    for case in cases:
        affine = read_image([source / "images" / f"{case}.nii.gz"]).affine
        for number, modality in enumerate(modalities):
            path = folder / "imagesTr" / f"{case}_{number:04d}.nii.gz"
            nib.save(nib.Nifti1Image(scanned(case, modality), affine), path)
        label = read_label(source / "labels" / f"{case}.nii.gz")
        write_label(folder / "labelsTr" / f"{case}.nii.gz", label.array[0], label)
    return folder


def scores(predictor: Predictor, cases: list[str], modalities: list[str], part: tuple[str, ...]) -> np.ndarray:
    """Mean Dice of the classes for each case, ``[cases]``, with the modalities ``part`` alone.

    The others are missing to a network that takes that; another sees a constant, which normalisation makes its mean.
    """
    absent = np.nan if predictor.takes_missing else 0.0
    found = []
    for case in cases:
        label = read_label(data_folder("hippocampus") / "labels" / f"{case}.nii.gz")
        images = [scanned(case, name) if name in part else np.full(label.shape, absent) for name in modalities]
        labels = predictor.predict(np.stack(images).astype(np.float32), affine=label.affine)
        found.append(predictor.task.mean_dice(labels, label.array[0]))
    return np.array(found)


def shown(values: np.ndarray) -> str:
    draws = draw_weights([str(number) for number in range(len(values))]) @ values / len(values)
    low, high = interval(draws)
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="of the processor's time, for each of the two networks"
    )
    parser.add_argument("--steps", type=int, help="of training, in place of --minutes")
    parser.add_argument("--modalities", nargs="+", default=["T1", "T2", "FLAIR"], choices=MODALITIES)
    parser.add_argument("--cases", type=int, default=20, help="test cases that are scored, of 40")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    modalities = list(dict.fromkeys(options.modalities))
    if len(modalities) < 2:
        parser.error("give two modalities or more")
    train = read_ids(data_folder("hippocampus") / f"labelled_{LABELLED}.txt")
    cases = read_ids(ROOT / "benchmarks" / "splits" / "hippocampus_test.txt")[: options.cases]
    bound = {"steps": options.steps} if options.steps else {"minutes": options.minutes}
    trained = f"{options.steps} steps" if options.steps else f"{options.minutes:g} processor minutes"
    torch.set_num_threads(1)
    name = f"{'-'.join(modalities)} {trained} seed {options.seed}".replace(" ", "-")
    data = write_cohort(RUNS / "modalities" / name / "data", train, modalities)
    predictors = {}
    for network in ("fusion_unet", "unet"):
        run = data.parent / network  # one that ended is not trained again
        if not (run / "report.html").exists():
            seed = options.seed
            clock = ["clock=processor"]
            foveate.train(
                data, run, **bound, network=network, seed=seed, device="cpu", set=clock, resume=True, quiet=True
            )
        predictors[network] = foveate.load(run, device="cpu")
    rows = []
    for size in range(len(modalities), 0, -1):
        for part in itertools.combinations(modalities, size):
            found = {key: scores(predictor, cases, modalities, part) for key, predictor in predictors.items()}
            difference = found["fusion_unet"] - found["unet"]
            rows.append((" + ".join(part), *map(shown, found.values()), shown(difference)))
            print(*rows[-1], sep=", ", flush=True)
    header = ("modalities present", "fusion_unet", "unet, the mean in place of the missing", "difference, paired")
    text = f"""{len(train)} labelled cases, {trained} for each network, {len(cases)} test cases; mean
Dice of two classes, 95% intervals over cases (training runs: one each). Modalities are simulated from one scan: see
the script for what that is not.

{markdown_table(header, rows)}

`{" ".join(["python benchmarks/modalities.py", *sys.argv[1:]])}` · commit {commit()} · {machine(1)}"""
    print(text)
    write_section("modalities", text)


if __name__ == "__main__":
    main()
