"""Volume of the hippocampus straight from the scan: ridge regression on features that were learnt without labels.

    python benchmarks/dbn_volume.py [--data DIR] [--minutes 1 | --steps N] [--labels 8 16 32] [--write]

Target: mL of the label, both parts. Every scan that is not scored is pre-trained on, as an image; the regressor learns
from the cases of labelled_N.txt and is scored on those of benchmarks/splits/hippocampus_test.txt. "random": the same
stack or encoder, as drawn. MAE and R^2 over the scored cases, with bootstrap 95% intervals over them.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import foveate
from common import ROOT, commit, data_folder, machine, markdown_table, volume_of, write_section
from foveate.cohort.layouts import read_ids
from foveate.cohort.plan import Plan
from foveate.io import read_image
from foveate.metrics.bootstrap import draw_weights, interval
from foveate.networks import build_network
from foveate.predict.model_file import SavedModel, load_model
from foveate.predict.volume import Features, belief_features, encoder_features, fit_ridge, pooled
from foveate.tasks import build_task

SECTION = "dbn-volume"


def images(data: Path) -> dict[str, Path]:
    """Case id -> image file."""
    return {file.name.removesuffix(".nii.gz"): file for file in sorted((data / "images").glob("*.nii.gz"))}


def pretrained(
    data: Path, scored: Sequence[str], folder: Path, method: str, bound: dict[str, float], plan: Plan | None
) -> Path:
    """A run of ``method`` on every scan but the scored ones; no label is there to be seen."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for case, file in images(data).items():
        if case not in scored:
            shutil.copyfile(file, folder / "images" / file.name)  # links to files elsewhere are refused
    run = folder / method
    if plan:
        run.mkdir()
        plan.write(run / "plan.json")
    return foveate.train(folder, run, method=method, device="cpu", quiet=True, **bound)  # type: ignore[arg-type]


def fresh(model: SavedModel, seed: int = 0) -> SavedModel:
    """The same model with weights as drawn, and a machine's biases zero."""
    torch.manual_seed(seed)
    own = build_network(model.network, model.plan, build_task(model.plan).channels).state_dict()
    biases = {key: torch.zeros_like(value) for key, value in model.state.items() if key.startswith("belief.")}
    return replace(model, state={**own, **biases})


def scores(answers: np.ndarray, truth: np.ndarray, cases: Sequence[str]) -> tuple[str, str]:
    """MAE in mL and R^2, each with its interval."""
    weights = draw_weights(cases)

    def both(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = w.sum(1)
        mean = w @ truth / total
        spread = w @ truth**2 - total * mean**2
        return w @ np.abs(answers - truth) / total, 1 - w @ (answers - truth) ** 2 / spread

    shown = []
    for value, draws in zip(both(np.ones((1, len(truth)))), both(weights), strict=True):
        low, high = interval(draws)
        shown.append(f"{float(value[0]):.3f} ({low:.3f} to {high:.3f})")
    return shown[0], shown[1]


def compare(
    data: Path, scored: Sequence[str], labels: Sequence[int], bound: dict[str, float]
) -> list[tuple[object, ...]]:
    """Rows: features, their number, then MAE and R^2 by number of labels."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        belief = load_model(pretrained(data, scored, folder, "deep_belief", bound, None) / "model")
        masked = load_model(pretrained(data, scored, folder, "masked_autoencoder", bound, belief.plan) / "model")
    plan = belief.plan
    sources: dict[str, Features] = {
        "mean of the labelled": lambda image: [],
        "size of the scan": lambda image: [torch.ones_like(image)],
        "stack, random": belief_features(fresh(belief)),
        "stack, deep belief network": belief_features(belief),
        "encoder, random": encoder_features(fresh(masked)),
        "encoder, masked autoencoder": encoder_features(masked),
    }
    drawn = {count: read_ids(data / f"labelled_{count}.txt") for count in labels}
    files = images(data)
    cases = sorted({*scored, *(case for ids in drawn.values() for case in ids)})
    truth = {case: volume_of(data / "labels" / files[case].name) for case in cases}
    rows = []
    for name, features in sources.items():
        found: dict[str, np.ndarray] = {}
        for case in cases:
            empty = np.zeros(0)
            found[case] = empty if name.startswith("mean") else pooled(features, read_image([files[case]]), plan)
        row: list[object] = [name, len(found[cases[0]])]
        for ids in drawn.values():
            ridge = fit_ridge(np.stack([found[case] for case in ids]), [truth[case] for case in ids])
            answers = ridge(np.stack([found[case] for case in scored]))
            row += scores(answers, np.array([truth[case] for case in scored]), scored)
        rows.append(tuple(row))
        print(*row, sep=" | ", flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_folder("hippocampus"))
    parser.add_argument("--scored", type=Path, default=ROOT / "benchmarks" / "splits" / "hippocampus_test.txt")
    parser.add_argument("--minutes", type=float, default=1.0, help="of each pre-training")
    parser.add_argument("--steps", type=int, help="in place of --minutes")
    parser.add_argument("--labels", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    given = parser.parse_args(arguments)
    bound = {"steps": given.steps} if given.steps else {"minutes": given.minutes}
    rows = compare(given.data, read_ids(given.scored), given.labels, bound)
    header = ["features", "number", *[f"{what}, {n} labels" for n in given.labels for what in ("MAE in mL", "R²")]]
    options = [*(f"--{name} {value:g}" for name, value in bound.items()), "--labels", *map(str, given.labels)]
    command = " ".join(["python benchmarks/dbn_volume.py", *options])
    threads = torch.get_num_threads()
    text = f"{markdown_table(header, rows)}\n\n`{command}` · commit {commit()} · {machine(threads)}"
    print(text)
    if given.write:
        write_section(SECTION, text)
    return text


if __name__ == "__main__":
    main()
