"""Where an answer comes from, when only whole images were labelled: lesions planted into real scans.

    python benchmarks/localisation.py [--data DIR] [--minutes 4 | --steps N] [--size 128] [--seed 0]
        [--set KEY=VALUE ...] [--write SECTION]

The network learns from scans without and with a lesion of soft edge and texture (planted.py), each scan once with one
and once without. It is told which have one, and not where. Pictures: those of brain_tumour/no_tumor; volumes: a folder
with images/. The scored scans, too, appear once with and once without a lesion; others, with lesions, choose the
threshold of the map and nothing else. The pictures have no patient ids: slices of one patient may stand on both sides.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image

import foveate
from common import commit, data_folder, machine, markdown_table, write_section
from foveate.explanations.localise import Threshold
from foveate.explanations.whole import evidence
from foveate.io import PICTURE_SUFFIXES, image_suffix, read_image
from foveate.io.volume import Volume
from foveate.metrics.bootstrap import class_mean, draw_weights, interval
from foveate.metrics.classification import ranking
from foveate.metrics.localisation import Located, localisation_scores, locate
from foveate.predict.whole import WholePredictor
from planted import CONTRAST, RADIUS, plant, tissue

SCORED, CHOOSING = 60, 40  # scans that are scored, and that choose the threshold


@dataclass(frozen=True)
class Scan:
    """image, mask (None without a lesion): ``[*S]``."""

    name: str
    patient: str
    image: Volume
    mask: np.ndarray | None


def background(file: Path, size: int) -> Volume:
    """One channel of a scan; a picture is shrunk to ``size`` pixels."""
    if image_suffix(file) not in PICTURE_SUFFIXES:
        return read_image([file])
    with Image.open(file) as picture:
        grey = picture.convert("L")
        grey.thumbnail((size, size), Image.Resampling.BOX)
        return Volume(np.asarray(grey, np.float32)[None], np.eye(4))


def scan(file: Path, size: int, lesion: bool, seed: int) -> Scan:
    found = background(file, size)
    image, mask = found.array[0].astype(np.float32), None
    if lesion:
        image, mask = plant(image, found.spacing, np.random.default_rng(seed))
    if found.dims == 2:
        image = image.clip(0, 255).round()
    name = f"{file.name.split('.')[0]}_{'lesion' if lesion else 'none'}"
    return Scan(name, file.name, Volume(image.astype(np.float32)[None], found.affine), mask)


def write_dataset(folder: Path, scans: Sequence[Scan]) -> None:
    """images/ and labels.csv."""
    (folder / "images").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["case", "label", "patient"])
        for item in scans:
            array = item.image.array[0]
            if item.image.dims == 2:
                Image.fromarray(array.astype(np.uint8)).save(folder / "images" / f"{item.name}.png")
            else:
                nib.save(nib.Nifti1Image(array, item.image.affine), folder / "images" / f"{item.name}.nii.gz")
            table.writerow([item.name, "none" if item.mask is None else "lesion", item.patient])


def shown(value: float, ends: Sequence[float]) -> str:
    return f"{value:.2f} ({ends[0]:.2f} to {ends[1]:.2f})"


def compare(predictor: WholePredictor, choosing: Sequence[Scan], scored: Sequence[Scan]) -> tuple[list[list[str]], str]:
    """Rows of the table, and what it says above."""
    column = list(predictor.plan.classes).index("lesion")
    maps = [evidence(predictor, item.image, "lesion") for item in choosing]
    threshold = Threshold.chosen(maps, [item.mask for item in choosing if item.mask is not None])
    tolerance = 0.03 * max(np.multiply(scored[0].image.shape, scored[0].image.spacing))
    answers = np.array([predictor.predict(item.image)[column] for item in scored])
    truth = np.array([item.mask is not None for item in scored])
    found: dict[str, list[Located]] = {"exact": [], "near": [], "otsu": []}
    for item, answer in zip(scored, answers, strict=True):
        if item.mask is None or answer <= 0.5:
            continue
        values = evidence(predictor, item.image, "lesion")
        for name, within, chosen in (
            ("exact", 0.0, threshold),
            ("near", tolerance, threshold),
            ("otsu", 0.0, Threshold()),
        ):
            case = locate(
                item.name,
                values,
                item.mask,
                item.image.spacing,
                threshold=chosen.of(values),
                tolerance=within,
                patient=item.patient,
                within=tissue(item.image.array[0]),
            )
            found[name].append(case)
    scores = {name: localisation_scores(cases) for name, cases in found.items() if cases}

    def row(title: str, name: str, key: str) -> list[str]:
        ends = ("", "_random", "_centre")
        if name not in scores:  # no lesion was recognised
            return [title, "", "", ""]
        return [title, *(shown(scores[name][f"{key}{end}"], scores[name][f"{key}{end}_interval"]) for end in ends)]  # type: ignore[arg-type]

    unit = "pixels" if scored[0].image.dims == 2 else "mm"
    rows = [
        row("pointing game, in the lesion", "exact", "pointing"),
        row(f"pointing game, within {tolerance:.1f} {unit}", "near", "pointing"),
        row(f"IoU above {threshold.share:.2f} of the maximum", "exact", "iou"),
        row("IoU by Otsu's threshold", "otsu", "iou"),
    ]
    weights = draw_weights([item.patient for item in scored])
    targets = truth.astype(float)
    once = ranking(targets, answers, np.ones((1, len(truth)))).auroc[0]
    area = shown(once, interval(ranking(targets, answers, weights).auroc))
    right = ((answers > 0.5) == truth).astype(float)[:, None]
    accuracy = shown(class_mean(right)[0], interval(class_mean(right, weights)))
    said = (
        f"AUROC {area}, accuracy {accuracy}, on {truth.sum()} scans, each with and without a lesion. "
        f"Below: those {len(found['exact'])} with a lesion for which the network says so."
    )
    return rows, said


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_folder("brain_tumour") / "no_tumor")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--steps", type=int, help="in place of --minutes")
    parser.add_argument("--size", type=int, default=128, help="longest side of a picture")
    parser.add_argument("--scored", type=int, default=SCORED)
    parser.add_argument("--choosing", type=int, default=CHOOSING)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the training")
    parser.add_argument("--run", type=Path, help="keep the run here, and score one that is here")
    parser.add_argument("--write", metavar="SECTION", help="put the table into this section of docs/benchmarks.md")
    given = parser.parse_args(arguments)
    folder = given.data / "images" if (given.data / "images").is_dir() else given.data
    files = [file for file in sorted(folder.iterdir()) if image_suffix(file)]
    order = np.random.default_rng(given.seed).permutation(len(files))
    parts = np.split(order, [given.scored, given.scored + given.choosing])
    scored = [scan(files[n], given.size, lesion, n) for n in parts[0] for lesion in (True, False)]
    choosing = [scan(files[n], given.size, True, n) for n in parts[1]]
    teaching = [scan(files[n], given.size, lesion, n) for n in parts[2] for lesion in (True, False)]
    bound = {"steps": given.steps} if given.steps else {"minutes": given.minutes}
    with tempfile.TemporaryDirectory() as temporary:
        write_dataset(Path(temporary) / "data", teaching)
        run = given.run or Path(temporary) / "run"
        if not (run / "model").exists():
            foveate.train(
                Path(temporary) / "data",
                run,
                task="classification",
                network="attention_cnn",
                device="cpu",
                seed=given.seed,
                quiet=True,
                set=given.set,
                **bound,  # type: ignore[arg-type]
            )
        predictor = foveate.load(run, device="cpu")
        assert isinstance(predictor, WholePredictor)
        rows, said = compare(predictor, choosing, scored)
    options = [f"--{name} {value:g}" for name, value in bound.items()]
    options += [f"--size {given.size}"] if given.size != parser.get_default("size") else []
    options += [f"--seed {given.seed}"] if given.seed else []
    options += [f"--set {' '.join(given.set)}"] if given.set else []
    table = markdown_table(["", "evidence map", "random place", "middle"], rows)
    sizes = f"mean radius {RADIUS[0]:.0%} to {RADIUS[1]:.0%} of the longest side"
    contrast = f"{CONTRAST[0]:g} to {CONTRAST[1]:g} deviations of the head brighter"
    counts = f"{len(teaching) // 2} scans to learn from, without and with one; {len(choosing)} choose the threshold"
    lesion = f"Lesions: {sizes}, {contrast}. {counts}. Random and middle are told the lesion's size for the IoU."
    origin = f"commit {commit()} · {machine(torch.get_num_threads())}"
    text = f"{said}\n\n{table}\n\n{lesion}\n\n`python benchmarks/localisation.py {' '.join(options)}` · {origin}"
    print(text)
    if given.write:
        write_section(given.write, text)
    return text


if __name__ == "__main__":
    main()
