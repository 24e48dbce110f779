"""Classification, regression and detection with all labels and with few: methods with the same network, data and time.

    python benchmarks/few_labels.py brain_tumour [--labels all 5%] [--methods supervised fixmatch] [--seeds 3]
        [--minutes 30] [--threads 2] [--clock processor] [--scored test] [--only-table]

The test is a fifth of the cases, by a hash of their names; the others train, with the labels of a share of them drawn
anew for every seed, class by class, and without the others' labels. Methods and settings are chosen with ``--scored
validation``: another fifth is scored, and the test is not there at all. Each run is train, predict and evaluate by the
public commands. Rows go to benchmarks/results/, their predictions beside them; runs that have a row are not done again,
and a training that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from common import ROOT, RUNS, commit, data_folder, machine, markdown_table, volume_of, write_section
from foveate.bench.machine import PACKAGE
from foveate.bench.pools import write_ids
from foveate.bench.rows import ALL, CASES, Row, append_row, read_rows, run_name
from foveate.bench.table import cell, setting_of
from foveate.bench.usage import measure, read_usage
from foveate.cohort.cohort import Case, Cohort
from foveate.cohort.layouts import find_cohort
from foveate.metrics import evaluate
from foveate.metrics.task_pairs import paired
from foveate.metrics.task_result import TaskEvaluation

RESULTS = ROOT / "benchmarks" / "results"
BASELINE = "supervised"
FIFTHS = {"test": 0, "validation": 1}  # by the rest of the hash of a case's name


@dataclass(frozen=True)
class Dataset:
    """What is learnt from a data folder. key: the score that counts; others: those shown beside it.

    volumes: the labels are the mL of all structures of the label maps, which are not there themselves.
    """

    source: str
    task: str
    key: str
    others: tuple[str, ...]
    volumes: bool = False


DATASETS = {
    "brain_tumour": Dataset("brain_tumour", "classification", "macro_f1", ("accuracy", "auroc", "ece")),
    "bccd": Dataset("bccd", "detection", "ap50", ("ap", "froc")),
    "hippocampus_boxes": Dataset("hippocampus", "detection", "ap50", ("ap", "froc")),
    "hippocampus_volume": Dataset("hippocampus", "regression", "mae", ("r2", "coverage"), volumes=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--labels", nargs="+", default=[ALL], help="all, or a share such as 5%%")
    parser.add_argument("--methods", nargs="+", default=[BASELINE], help="a name, and settings: name+key=value")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    parser.add_argument("--scored", choices=FIFTHS, default="test")
    parser.add_argument("--section", help="of docs/benchmarks.md, if not that of the dataset")
    parser.add_argument("--only-table", action="store_true")
    given = parser.parse_args()
    bench = FewLabels(given.dataset, given.scored, given.minutes, given.threads, given.clock)
    if not given.only_table:
        for seed in range(given.seeds):
            for labels in given.labels:
                for method in given.methods if labels != ALL else [BASELINE]:
                    bench.run(method, labels, seed)
    text = bench.table(" ".join(sys.argv[1:]).replace(" --only-table", ""))
    write_section(given.section or f"few-labels-{given.dataset.replace('_', '-')}", text)
    print(text)


class FewLabels:
    """The runs of a dataset under one bound, scored on one part of it."""

    def __init__(self, dataset: str, scored: str, minutes: float, threads: int, clock: str) -> None:
        self.dataset, self.about, self.work = dataset, DATASETS[dataset], RUNS / "few_labels" / dataset / scored
        self.threads = threads
        self.shared: dict[str, Any] = {
            "scored": scored,
            "minutes": minutes,
            "threads": threads,
            "device": "cpu",
            "clock": clock,
        }
        self.file = RESULTS / f"{dataset}.csv"
        self.cohort = find_cohort(data_folder(self.about.source), None if self.about.volumes else self.about.task)
        fifths = {case.id: _number(case.id) % 5 for case in self.cohort.cases}
        self.train = [case for case in self.cohort.cases if fifths[case.id] not in (FIFTHS["test"], FIFTHS[scored])]
        self.scored = [case for case in self.cohort.cases if fifths[case.id] == FIFTHS[scored]]
        for part, cases in (("train", self.train), ("scored", self.scored)):
            if not (self.work / part).exists():
                copy_cases(self.cohort, cases, self.work / part, self.about.volumes)

    def draw(self, labels: str, seed: int) -> list[str]:
        """Ids of a share of the cases that train, of every class as many per cent."""
        groups = defaultdict(list)
        for case in self.train:
            groups[str(case.target) if self.about.task == "classification" else ""].append(case.id)
        shuffled = random.Random(f"{self.dataset} {seed}")
        share = float(labels.rstrip("%")) / 100
        chosen = [shuffled.sample(sorted(ids), math.ceil(share * len(ids))) for _, ids in sorted(groups.items())]
        return sorted(id for ids in chosen for id in ids)

    def run(self, method: str, labels: str, seed: int) -> None:
        number = ALL if labels == ALL else str(len(self.draw(labels, seed)))
        row: Row = {"dataset": self.dataset, "method": method, "labels": number, "seed": seed, **self.shared}
        name = run_name(row)
        if any(run_name(other) == name for other in read_rows(self.file)):
            return
        folder, log = self.work / commit() / name, self.work / commit() / f"{name}.log"
        chosen, *settings = method.split("+")
        arguments: list[str | Path] = ["train", self.work / "train", folder, "--resume", "--method", chosen]
        arguments += [part for setting in settings for part in ("--set", setting)]
        arguments += ["--task", self.about.task, "--seed", str(seed), "--device", "cpu"]
        arguments += ["--minutes", f"{self.shared['minutes']:g}"]
        arguments += ["--set", f"clock={self.shared['clock']}"]
        if labels != ALL:
            ids = self.work / f"draw-{seed}-{number}.txt"
            write_ids(ids, self.draw(labels, seed))
            arguments += ["--labelled", ids]
        note = folder.with_name(f"{name}.usage.json")
        if not (folder / "model" / "model.json").exists():
            self._call(log, arguments, note)
        out, scores = folder / "benchmark", folder / "benchmark" / "scores.json"
        self._call(log, ["predict", folder, self.work / "scored", out, "--overwrite", "--device", "cpu"])
        self._call(log, ["evaluate", out, self.work / "scored", "--json", scores])
        found, usage = json.loads(scores.read_text(encoding="utf-8")), read_usage(note)
        steps = [json.loads(line).get("step", 0) for line in (folder / "log.jsonl").read_text().splitlines()]
        key, others = self.about.key, self.about.others
        row |= {"train_cases": len(self.train), "steps": max(steps)}
        row |= {name: round(found[name], 5) for name in (key, *others)}
        row |= {"seconds": round(usage.seconds, 1), "cpu_seconds": round(usage.cpu_seconds)}
        row |= {"peak_rss_mb": round(usage.peak_rss_mb), "commit": commit(), "machine": machine(self.threads)}
        append_row(self.file, row | {"date": f"{datetime.now(UTC):%Y-%m-%d}", CASES: predictions(out)})
        shutil.rmtree(folder / "prepared", ignore_errors=True)
        print(f"{name}: {key} {found[key]:.4f}, {max(steps)} steps", flush=True)

    def _call(self, log: Path, arguments: Sequence[str | Path], note: Path | None = None) -> None:
        env = {"OMP_NUM_THREADS": str(self.shared["threads"]), "PYTHONPATH": str(PACKAGE.parent)}
        code, _ = measure([sys.executable, "-m", "foveate", *arguments], log, env, note)
        if code:
            raise SystemExit(f"{arguments[0]} ended with exit code {code}; its output is in {log}")

    def table(self, arguments: str) -> str:
        """The table of the rows under this bound, with differences to the baseline on as many labels."""
        setting = setting_of({key: str(value) for key, value in self.shared.items()})
        rows = setting.rows(read_rows(self.file))
        groups: dict[tuple[str, str], dict[int, Row]] = defaultdict(dict)
        for row in rows:
            groups[row["labels"], row["method"]][int(row["seed"])] = row
        key, others = self.about.key, self.about.others
        header = ["labels", "method", "seeds", f"{key} (95%, by seed)", f"difference to {BASELINE} (95%)", *others]
        lines = []
        order = sorted(groups, key=lambda g: (g[0] == ALL, int(g[0]) if g[0] != ALL else 0, g[1] != BASELINE))
        for labels, method in order:
            group, baseline = groups[labels, method], groups.get((labels, BASELINE), {})
            scored = {seed: self.evaluation(row) for seed, row in group.items()}
            shown = "; ".join(cell(scored[seed][key], ".3f") for seed in sorted(scored))
            seeds, difference = sorted(group.keys() & baseline.keys()), "-"
            if seeds and method != BASELINE:
                theirs = [self.evaluation(baseline[seed]) for seed in seeds]
                difference = cell(paired([scored[seed] for seed in seeds], theirs, key), "+.3f")
            means = [f"{np.mean([float(row[name]) for row in group.values()]):.3f}" for name in (*others, "steps")]
            lines.append([labels, method, str(len(group)), shown, difference, *means[:-1], f"{float(means[-1]):.0f}"])
        about = f"{len(self.scored)} cases are scored, {len(self.train)} others train."
        listed = {column: "; ".join(sorted({row[column] for row in rows})) for column in ("commit", "machine", "date")}
        origin = f"`python benchmarks/few_labels.py {arguments}` · commit {listed['commit']} · {listed['machine']}"
        return "\n\n".join([markdown_table([*header, "steps"], lines), about, f"{origin} · {listed['date']}"])

    def evaluation(self, row: Row) -> TaskEvaluation:
        """The evaluation of a row's predictions, made again from what lies beside the rows."""
        folder = self.work / "again"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in row[CASES].items():
            (folder / name).write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        found = evaluate(folder, self.work / "scored")
        assert isinstance(found, TaskEvaluation)
        return found


def predictions(out: Path) -> dict[str, Any]:
    """What ``foveate predict`` wrote, by the name of the file."""
    table, boxes = out / "predictions.csv", out / "predictions.json"
    if table.exists():
        return {table.name: table.read_text(encoding="utf-8")}
    return {boxes.name: json.loads(boxes.read_text(encoding="utf-8"))}


def copy_cases(cohort: Cohort, cases: Sequence[Case], out: Path, volumes: bool = False) -> None:
    """Part of a dataset in its own layout, or as a table of volumes; complete or not there."""
    making = out.with_name(f"{out.name}.part")
    shutil.rmtree(making, ignore_errors=True)
    for case in cases:
        for file in [*case.images, *([case.label] if case.label and not volumes else [])]:
            target = making / file.relative_to(cohort.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    if volumes:
        lines = [f"{case.id},{volume_of(case.label):.4f}" for case in cases if case.label]
        (making / "labels.csv").write_text("\n".join(["case,value", *lines, ""]), encoding="utf-8")
    making.replace(out)


def _number(case: str) -> int:
    return int(hashlib.sha256(case.encode()).hexdigest(), 16)


if __name__ == "__main__":
    main()
