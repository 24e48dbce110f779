"""A segmenter from boxes: Dice of filling the box, of the boxes' constraints alone, and with the critic of masks.

    python benchmarks/box_supervision.py [--dataset hippocampus] [--minutes 15 | --steps N] [--write]

Half of the training cases give their images and boxes, which are derived from their labels; the masks of the other half
show the critic what shapes look like, without their images. So no image is ever seen with its mask. All structures of
a dataset count as one, as those of the hippocampus touch; ``--classes`` takes them as they are. Scored are the cases of
benchmarks/splits/, which have no part in training. "the box, filled": the true box of a scored case, which nothing that
is trained here is told. Mean Dice with bootstrap 95% intervals over cases.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import foveate
from common import ROOT, RUNS, commit, data_folder, machine, markdown_table, write_section
from foveate.cohort.layouts import read_ids
from foveate.io import read_label, write_label
from foveate.metrics.bootstrap import draw_weights, interval

SECTION = "box-supervision"
CLASSES = {"hippocampus": {"anterior": 1, "posterior": 2}, "left_atrium": {"atrium": 1}}


def boxes_of(labels: np.ndarray, classes: dict[str, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The smallest box around each class that ``labels [*S]`` show: its low and high corner."""
    found = {}
    for name, value in classes.items():
        places = np.argwhere(labels == value)
        if len(places):
            found[name] = places.min(0), places.max(0) + 1
    return found


def labels_of(file: Path, whole: bool) -> np.ndarray:
    """The label map ``[*S]`` of a file, uint8; all structures as one if ``whole``."""
    labels = read_label(file).array[0]
    return (labels > 0).astype(np.uint8) if whole else labels.astype(np.uint8)


def write_cohort(folder: Path, source: Path, cases: Sequence[str], classes: dict[str, int], whole: bool) -> Path:
    """Images and boxes of every other case, masks of those between: drawn by a seed of their own."""
    shuffled = random.Random("boxes and masks").sample(sorted(cases), len(cases))
    boxed, donors = sorted(shuffled[: len(cases) // 2]), sorted(shuffled[len(cases) // 2 :])
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    about = {"labels": {"background": 0, **classes}}
    (folder / "dataset.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    with (folder / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", *(f"{side}_{axis}" for side in ("low", "high") for axis in range(3))])
        for case in boxed:
            shutil.copyfile(source / "images" / f"{case}.nii.gz", folder / "images" / f"{case}.nii.gz")
            labels = labels_of(source / "labels" / f"{case}.nii.gz", whole)
            for name, (low, high) in boxes_of(labels, classes).items():
                writer.writerow([case, name, *low.tolist(), *high.tolist()])
    for case in donors:
        label = read_label(source / "labels" / f"{case}.nii.gz")
        write_label(folder / "masks" / f"{case}.nii.gz", labels_of(source / "labels" / f"{case}.nii.gz", whole), label)
    print(f"{len(boxed)} scans with boxes, {len(donors)} masks of others", flush=True)
    return folder


def dice(answer: np.ndarray, labels: np.ndarray, classes: dict[str, int]) -> float:
    """Mean over the classes that either shows."""
    found = []
    for value in classes.values():
        a, b = answer == value, labels == value
        if a.any() or b.any():
            found.append(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
    return float(np.mean(found))


def filled_dice(labels: np.ndarray, classes: dict[str, int]) -> float:
    """Mean Dice of every class's own true box, filled; where boxes overlap, each counts whole."""
    found = []
    for name, (low, high) in boxes_of(labels, classes).items():
        box = np.zeros_like(labels)
        box[tuple(map(slice, low, high))] = classes[name]
        found.append(dice(box, labels * (labels == classes[name]), {name: classes[name]}))
    return float(np.mean(found))


def shown(values: np.ndarray) -> str:
    draws = draw_weights([str(number) for number in range(len(values))]) @ values / len(values)
    low, high = interval(draws)
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="hippocampus", choices=CLASSES)
    parser.add_argument("--classes", action="store_true", help="each class with a box of its own")
    parser.add_argument("--minutes", type=float, default=15.0, help="of each training")
    parser.add_argument("--steps", type=int, help="in place of --minutes")
    parser.add_argument("--cases", type=int, help="scored ones; all if not given")
    parser.add_argument("--split", default="test", choices=("test", "validation"), help="which cases are scored")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of both trainings")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    source, whole = data_folder(options.dataset), not options.classes
    classes = CLASSES[options.dataset] if options.classes else {options.dataset: 1}
    held = {
        split: read_ids(ROOT / "benchmarks" / "splits" / f"{options.dataset}_{split}.txt")
        for split in ("test", "validation")
    }
    cases = [file.name.removesuffix(".nii.gz") for file in sorted((source / "images").glob("*.nii.gz"))]
    train = [case for case in cases if case not in {*held["test"], *held["validation"]}]
    scored = held[options.split][: options.cases]
    bound = {"steps": options.steps} if options.steps else {"minutes": options.minutes}
    name = "-".join(
        [options.dataset, *(f"{value:g}{key}" for key, value in bound.items()), f"seed{options.seed}", *options.set]
    )
    folder = RUNS / "box_supervision" / (f"{name}-classes" if options.classes else name)
    if not (folder / "data").exists():
        write_cohort(folder / "data", source, train, classes, whole)
    truth = {case: labels_of(source / "labels" / f"{case}.nii.gz", whole) for case in scored}
    filled = np.array([filled_dice(truth[case], classes) for case in scored])
    rows: list[tuple[object, ...]] = [("the box, filled", "", shown(filled), "")]
    print(*rows[0], sep=" | ", flush=True)
    for title, weight in (("constraints alone", 0), ("constraints and critic", None)):
        run = folder / title.replace(" ", "-")
        settings = [*options.set, *([] if weight is None else [f"method.critic_weight={weight}"])]
        if not (run / "report.html").exists():  # one that ended is not trained again
            foveate.train(
                folder / "data",
                run,
                method="adversarial_constraint",
                seed=options.seed,
                device="cpu",
                set=settings,
                resume=True,
                quiet=True,
                **bound,
            )
        predictor = foveate.load(run, device="cpu")
        images = {case: source / "images" / f"{case}.nii.gz" for case in scored}
        found = np.array([dice(predictor.predict(images[case]), truth[case], classes) for case in scored])
        steps = max(json.loads(line)["step"] for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
        rows.append((title, steps, shown(found), shown(found - filled)))
        print(*rows[-1], sep=" | ", flush=True)
    table = markdown_table(("from", "steps", "Dice", "above the filled box, paired"), rows)
    command = " ".join(["python benchmarks/box_supervision.py", *sys.argv[1:]])
    text = f"""{options.dataset.replace("_", " ")}: {len(scored)} {options.split} cases, one run each.

{table}

`{command}` · commit {commit()} · {machine(torch.get_num_threads())}"""
    print(text)
    if options.write:
        write_section(f"{SECTION}-{options.dataset}", text)


if __name__ == "__main__":
    main()
