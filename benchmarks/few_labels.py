"""Few-label benchmark: every method with a few labels, and the supervised one with all of them as the ceiling.

    python benchmarks/few_labels.py hippocampus [--minutes 15] [--seeds 3] [--methods supervised,...] [--ceiling]

Each run is the public commands train, predict and evaluate, one after the other on the same cores. Its row is written
to benchmarks/results/ as soon as it is scored; rows that are there are not run again, and an interrupted training is
continued. Test cases are listed in benchmarks/splits/ and lie outside the dataset that is trained on. The first run
plans for this machine and the others use its plan, so that they differ in method, labels and seed alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common import DOCS, RESULTS, ROOT, RUNS, Usage, commit, cores, data_folder, machine, measure, write_section
from few_labels_table import render
from foveate.cohort.layouts import read_ids
from foveate.files import write_atomic
from rows import CASES, append_row, read_rows, run_name

SPLITS = ROOT / "benchmarks" / "splits"
CLASSES = {
    "hippocampus": {"anterior": 1, "posterior": 2},
    "left_atrium": {"atrium": 1},
}
DEFAULT_METHODS = "supervised,mean_teacher,copy_paste"


@dataclass(frozen=True)
class Run:
    """One training: what tells its row from the others."""

    dataset: str
    method: str
    labels: int
    seed: int
    minutes: float

    @property
    def name(self) -> str:
        return run_name(vars(self))


def list_runs(
    dataset: str, methods: Sequence[str], labels: int, everything: int | None, seeds: int, minutes: float
) -> list[Run]:
    """Every run, seed by seed, so that a table of the first ones is balanced. everything: labels of the ceiling."""
    wanted = [(method, labels) for method in methods] + ([("supervised", everything)] if everything else [])
    return [Run(dataset, method, count, seed, minutes) for seed in range(seeds) for method, count in wanted]


def left_over(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> list[Run]:
    """The runs that have no row yet."""
    done = {run_name(row) for row in rows}
    return [run for run in runs if run_name(vars(run)) not in done]


def build_dataset(data: Path, target: Path, ids: Sequence[str], classes: dict[str, int]) -> None:
    """A dataset folder of ``ids`` alone: images/, labels/ (hard links where possible, else copies), dataset.json."""
    for part in ("images", "labels"):
        (target / part).mkdir(parents=True, exist_ok=True)
        for case in ids:
            file = target / part / f"{case}.nii.gz"
            if not file.exists():
                place(data / part / file.name, file)
    labels = {"background": 0, **classes}
    about = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": len(ids), "file_ending": ".nii.gz"}
    write_atomic(target / "dataset.json", json.dumps(about) + "\n")


def place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(source, temporary)
        temporary.replace(target)


class Bench:
    """The folders and settings that all runs of a benchmark share.

    work: holds the training and the test dataset, the shared cache, and a folder per commit with plan and runs.
    """

    def __init__(self, dataset: str, data: Path, work: Path, labels: int, threads: int) -> None:
        self.dataset, self.data, self.threads = dataset, data, threads
        self.labelled = data / f"labelled_{labels}.txt"
        self.work = work / dataset
        self.commit = commit()
        self.home = self.work / self.commit
        self.test = read_ids(SPLITS / f"{dataset}_test.txt")
        present = sorted(file.name.removesuffix(".nii.gz") for file in (data / "images").glob("*.nii.gz"))
        if missing := sorted(set(self.test) - set(present)):
            raise SystemExit(f"{data}: {len(missing)} test cases are missing, such as {missing[0]}")
        self.train = sorted(set(present) - set(self.test))
        if shared := set(read_ids(self.labelled)) & set(self.test):
            raise SystemExit(f"{self.labelled}: {len(shared)} labelled cases are test cases")

    def build(self) -> None:
        for part, ids in (("train", self.train), ("test", self.test)):
            build_dataset(self.data, self.work / part, ids, CLASSES[self.dataset])

    def execute(self, run: Run) -> dict[str, Any]:
        """Train, predict, evaluate; the row. Raises SystemExit naming the log when a command fails."""
        folder, log = self.home / run.name, self.home / f"{run.name}.log"
        usage = self.fit(run, folder, log)
        predictions, scores = folder / "benchmark" / "predictions", folder / "benchmark" / "scores.json"
        self.call(log, "predict", folder, self.work / "test" / "images", predictions)
        self.call(log, "evaluate", predictions, self.work / "test", "--json", scores)
        return self.row(run, folder, json.loads(scores.read_text(encoding="utf-8")), usage)

    def fit(self, run: Run, folder: Path, log: Path) -> dict[str, float]:
        """Train, or continue; what that took, kept beside the run in case scoring is interrupted."""
        kept = folder / "benchmark" / "usage.json"
        if kept.exists():
            return dict(json.loads(kept.read_text(encoding="utf-8")))
        shared_plan = self.home / "plan.json"
        if shared_plan.exists() and not (folder / "provenance.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shared_plan, folder / "plan.json")
        command: list[str | Path] = ["train", self.work / "train", folder, "--resume", "--minutes", f"{run.minutes:g}"]
        command += ["--method", run.method, "--seed", str(run.seed), "--device", "cpu"]
        command += ["--set", "validation=0", "--set", f"cache={self.work / 'prepared'}"]
        command += ["--labelled", self.labelled] if run.labels < len(self.train) else []
        usage = asdict(self.call(log, *command))
        if not shared_plan.exists():
            shutil.copyfile(folder / "plan.json", shared_plan)
        kept.parent.mkdir(exist_ok=True)
        write_atomic(kept, json.dumps(usage) + "\n")
        return usage

    def call(self, log: Path, *arguments: str | Path) -> Usage:
        command = [sys.executable, "-m", "foveate", *arguments]
        # The package of this checkout, whose commit the row names, wherever the environment would find another.
        env = {"OMP_NUM_THREADS": str(self.threads), "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "120"}
        usage = measure(command, log, env)
        if usage.code:
            raise SystemExit(f"foveate {arguments[0]} ended with exit code {usage.code}; its output is in {log}")
        return usage

    def row(self, run: Run, folder: Path, scores: dict[str, Any], usage: dict[str, float]) -> dict[str, Any]:
        steps = 0
        for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                steps = max(steps, json.loads(line).get("step", 0))
        names = CLASSES[self.dataset]
        cases = {case["case"]: [case[f"dice/{name}"] for name in names] for case in scores["cases"]}
        if set(cases) != set(self.test):
            raise SystemExit(f"{folder}: {len(cases)} cases were scored, not the {len(self.test)} of the test list")
        return {
            **asdict(run),
            "minutes": f"{run.minutes:g}",
            "steps": steps,
            "dice": round(scores["dice"], 5),
            **{f"dice_{name}": round(scores[f"dice/{name}"], 5) for name in names},
            "hd95_mm": round(scores["hd95_mm"], 3),
            "nsd": round(scores["nsd"], 4),
            "seconds": round(usage["seconds"], 1),
            "cpu_seconds": round(usage["cpu_seconds"]),
            "peak_rss_mb": round(usage["peak_rss_mb"]),
            "commit": self.commit,
            "machine": machine(self.threads),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "plan": describe(json.loads((folder / "plan.json").read_text(encoding="utf-8"))),
            CASES: cases,
        }


def describe(plan: dict[str, Any]) -> str:
    spacing, patch, widths = ("x".join(f"{n:g}" for n in plan[key]) for key in ("spacing", "patch", "widths"))
    return f"spacing {spacing} mm, patch {patch}, batch {plan['batch']}, widths {widths}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(CLASSES))
    parser.add_argument("--data", type=Path, help="folder with images/, labels/ and the labelled_N.txt lists")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default=DEFAULT_METHODS, help="separated by commas")
    parser.add_argument("--labels", type=int, default=8, help="how many: the list labelled_N.txt")
    parser.add_argument("--ceiling", action="store_true", help="also supervised, with every label")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--work", type=Path, default=RUNS, help="folder for datasets, cache and runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the rows")
    parser.add_argument("--dry-run", action="store_true", help="list the runs that are still to do")
    parser.add_argument("--only-table", action="store_true", help="write the table of the rows that are there")
    parser.add_argument("--no-docs", action="store_true", help="print the table only")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    dataset, labels = arguments.dataset, arguments.labels
    results = arguments.results / f"{dataset}.csv"
    if not arguments.only_table:
        data = arguments.data or data_folder(dataset)
        bench = Bench(dataset, data.resolve(), arguments.work.resolve(), labels, arguments.threads)
        everything = len(bench.train) if arguments.ceiling else None
        runs = list_runs(dataset, arguments.methods.split(","), labels, everything, arguments.seeds, arguments.minutes)
        to_do = left_over(runs, read_rows(results))
        print(
            f"{len(runs) - len(to_do)} of {len(runs)} runs are done; to do: {', '.join(r.name for r in to_do) or '-'}"
        )
        if arguments.dry_run:
            return
        bench.build()
        for run in to_do:
            row = bench.execute(run)
            append_row(results, row)
            print(f"{run.name}: Dice {row['dice']:.4f}, HD95 {row['hd95_mm']:.2f} mm, {row['steps']} steps", flush=True)
    text = render(read_rows(results), list(CLASSES[dataset]), labels, arguments.minutes)
    print(text)
    if not arguments.no_docs:
        write_section(dataset.replace("_", "-"), text)
        print(f"\nWritten to {DOCS.relative_to(ROOT)}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, subprocess.SubprocessError):
        main()
