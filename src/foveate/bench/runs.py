"""One run of a benchmark: train, predict and evaluate with the public commands, and the row that this leaves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foveate.bench.draws import Draws
from foveate.bench.locks import wait_until_free, waiting_lock
from foveate.bench.machine import PACKAGE, commit, machine
from foveate.bench.pools import Pools, write_dataset, write_ids
from foveate.bench.rows import ALL, CASES, Row, append_row, read_rows, run_name
from foveate.bench.table import BASELINE, Setting
from foveate.bench.usage import Usage, measure, read_usage
from foveate.cohort.cohort import Cohort
from foveate.engine.lock import Lock
from foveate.errors import FoveateError, InputError
from foveate.files import write_atomic

PEER = "peer:"
"""Before the name of a method that another project's adapter trains."""


PRETRAIN = "pretrain"
"""In the place of a slot: what the network is pre-trained by."""


def variant(method: str, slot: str, block: str) -> str:
    """The name of a method whose network has a block in a slot, ``supervised+skip=gate``, or was pre-trained,
    ``supervised+pretrain=dbn``, or that trains by another setting, ``supervised+optimiser.ema=0.99``."""
    return f"{method}+{slot}={block}"


def split_variant(name: str) -> tuple[str, dict[str, str]]:
    """The method, and what the name puts in each slot."""
    method, *slots = name.split("+")
    parts = (slot.partition("=") for slot in slots)
    return method, {slot: block for slot, _, block in parts}


@dataclass(frozen=True)
class Run:
    """One training: what tells its row from the others of a dataset.

    scored: name of the list of scored cases. method: perhaps with more, as ``variant`` names it. labels: how many,
    as text, or ``all``. seed: also the number of the draw.
    """

    scored: str
    method: str
    labels: str
    seed: int
    minutes: float
    threads: int
    device: str
    clock: str = "wall"

    @property
    def name(self) -> str:
        return run_name(vars(self))


def list_runs(methods: Sequence[str], labels: Sequence[int], ceiling: bool, seeds: int, setting: Setting) -> list[Run]:
    """Every run, seed by seed, so that a table of the first ones is balanced."""
    wanted = [(method, str(count)) for count in sorted(set(labels)) for method in dict.fromkeys(methods)]
    wanted += [(BASELINE, ALL)] if ceiling else []
    return [
        Run(method=method, labels=count, seed=seed, **vars(setting))
        for seed in range(seeds)
        for method, count in wanted
    ]


def left_over(runs: Iterable[Run], rows: Iterable[Row]) -> list[Run]:
    """The runs that have no row yet."""
    done = {run_name(row) for row in rows}
    return [run for run in runs if run.name not in done]


@contextlib.contextmanager
def claim(run: Run, results: Path) -> Iterator[bool]:
    """Whether this process may do ``run`` now: no other one is at it, and it has no row."""
    try:
        lock = Lock(results.with_name(f".{results.stem}-{run.name}.lock"))
    except InputError:
        yield False
        return
    try:
        yield bool(left_over([run], read_rows(results)))
    finally:
        lock.release(remove=True)


def work_off(
    runs: Sequence[Run], results: Path, execute: Callable[[Run], Row], told: Callable[[str], object]
) -> list[str]:
    """Do every run that has no row and that no other process does; the row is written as soon as there is one.

    execute: does a run and returns its row. told: gets a line for each. A run that fails does not keep the others from
    being done. Returns what failed, in words.
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    failed = []
    for run in runs:
        with claim(run, results) as free:
            if not free:
                continue
            try:
                row = execute(run)
                append_row(results, row)
            except FoveateError as error:
                failed.append(f"{run.name}: {error}")
                told(failed[-1])
                continue
            told(f"{run.name}: Dice {row['dice']:.4f}, {row['steps']} steps")
    return failed


@dataclass(frozen=True)
class Bench:
    """What all runs share: the data and the folders.

    dataset: its name. without: name of the list of cases left out, or "". peers: adapter by name. commit: of the code
    that runs. work: of these very cases (see ``content``); holds the two datasets, and a folder for each run below that
    of the commit. plan: file of the plan, made once and given to every run, so that all train the same network. It fits
    the threads and the device.
    """

    dataset: str
    pools: Pools
    draws: Draws
    without: str
    threads: int
    device: str
    clock: str
    peers: Mapping[str, Path]
    work: Path
    plan: Path
    commit: str = field(default_factory=commit)

    def build(self, smallest: int) -> None:
        """The two datasets and the plan; smallest: labels that may be seen when the plan is made."""
        with waiting_lock(self.work / "lock"):
            write_dataset(self.pools.train, self.work / "train")
            write_dataset(self.pools.scored, self.work / "scored")
            if not self.plan.exists():
                self._make_plan(smallest)

    @property
    def plan_line(self) -> str:
        return describe(json.loads(self.plan.read_text(encoding="utf-8")))

    def _make_plan(self, labels: int) -> None:
        # A plan comes out of training; one step of it is enough, and what it has prepared is thrown away.
        folder = self.work / "planning"
        shutil.rmtree(folder, ignore_errors=True)
        self._call(self.work / "planning.log", *self._train(BASELINE, folder, labels, 0), "--steps", "1")
        self.plan.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.plan, folder.joinpath("plan.json").read_bytes())
        shutil.rmtree(folder)

    def folder(self, run: Run) -> Path:
        """Of a run; another one with other labels, another plan or another adapter."""
        adapter = self.peers[run.method.removeprefix(PEER)] if run.method.startswith(PEER) else None
        made_of = [
            None if run.labels == ALL else self.draws.take(run.seed, int(run.labels)),
            self.plan.read_text(encoding="utf-8"),
            [str(adapter), adapter.read_text(encoding="utf-8")] if adapter else None,
        ]
        return self.work / self.commit / f"{run.name}-{digest(made_of)}"

    def execute(self, run: Run) -> Row:
        """Train, predict, evaluate; the row. Raises FoveateError naming the log when a command fails."""
        folder = self.folder(run)
        log, scores = folder.with_name(f"{folder.name}.log"), folder / "benchmark" / "scores.json"
        usage = self._fit_peer(run, folder, log) if run.method.startswith(PEER) else self._fit(run, folder, log)
        if not scores.exists():  # scored once: a run that was killed before its row was written is not scored again
            predictions = folder / "benchmark" / "predictions"
            if not run.method.startswith(PEER):
                images = self.work / "scored" / "images"
                self._call(log, "predict", folder, images, predictions, "--overwrite", "--device", self.device)
            self._call(log, "evaluate", predictions, self.work / "scored", "--json", scores)
        row = self._row(run, json.loads(scores.read_text(encoding="utf-8")), usage, self._facts(folder))
        shutil.rmtree(folder / "prepared", ignore_errors=True)  # nothing reads it any more
        return row

    def _fit(self, run: Run, folder: Path, log: Path) -> Usage:
        """Train, or continue; what all parts of it took."""
        note, done = folder.with_name(f"{folder.name}.usage.json"), folder / "benchmark"
        if done.exists():
            return read_usage(note)
        if (folder / "lock").exists():
            wait_until_free(folder / "lock")  # a killed benchmark's training, which is about to stop
        if not (folder / "provenance.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.plan, folder / "plan.json")
        labels = None if run.labels == ALL else int(run.labels)
        command = self._train(run.method, folder, labels, run.seed)
        usage = self._call(log, *command, "--resume", "--minutes", f"{run.minutes:g}", note=note)
        done.mkdir()
        return usage

    def _fit_peer(self, run: Run, folder: Path, log: Path) -> Usage:
        """Train and predict with a peer's adapter, from the start if it was interrupted."""
        note, done = folder.with_name(f"{folder.name}.usage.json"), folder / "benchmark" / "predictions"
        if done.exists():
            return read_usage(note)
        shutil.rmtree(folder, ignore_errors=True)
        note.unlink(missing_ok=True)
        folder.mkdir(parents=True)
        command: list[str | Path] = [sys.executable, self.peers[run.method.removeprefix(PEER)], self.work / "train"]
        command += [self._labelled(int(run.labels), run.seed), self.work / "scored" / "images", folder]
        command += ["--minutes", f"{run.minutes:g}", "--threads", str(self.threads), "--seed", str(run.seed)]
        usage = self._run([*command, "--device", self.device, "--clock", self.clock], log, note)
        done.parent.mkdir()
        folder.joinpath("predictions").replace(done)
        return usage

    def _labelled(self, labels: int, draw: int) -> Path:
        ids = self.draws.take(draw, labels)
        path = self.work / "draws" / f"{draw}-{labels}-{digest(ids)}.txt"
        write_ids(path, ids)
        return path

    def _train(self, method: str, folder: Path, labels: int | None, seed: int) -> list[str | Path]:
        """The train command but for its bound. labels: None for all of them."""
        method, slots = split_variant(method)
        command: list[str | Path] = ["train", self.work / "train", folder, "--method", method, "--seed", str(seed)]
        command += ["--device", self.device, "--set", "validation=0", "--set", f"clock={self.clock}"]
        for slot, value in slots.items():
            setting = slot if "." in slot else f"network.attention.{slot}"
            command += ["--pretrain", value] if slot == PRETRAIN else ["--set", f"{setting}={value}"]
        return command + (["--labelled", self._labelled(labels, seed)] if labels is not None else [])

    def _call(self, log: Path, *arguments: str | Path, note: Path | None = None) -> Usage:
        return self._run([sys.executable, "-m", "foveate", *arguments], log, note)

    def _run(self, command: Sequence[str | Path], log: Path, note: Path | None) -> Usage:
        # The package that runs here, whose commit the row names, wherever the environment would find another.
        env = {"OMP_NUM_THREADS": str(self.threads), "PYTHONPATH": str(PACKAGE.parent), "COLUMNS": "120"}
        code, usage = measure(command, log, env, note)
        if code:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
            raise FoveateError(f"exit code {code} ({last[:200]}); the output is in {log}")
        return usage

    def _facts(self, folder: Path) -> dict[str, Any]:
        """Steps that were trained and what with: of a run folder, or as a peer's adapter says in peer.json."""
        peer = folder / "peer.json"
        if peer.exists():
            return dict(json.loads(peer.read_text(encoding="utf-8")))
        steps = 0
        for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                steps = max(steps, json.loads(line).get("step", 0))
        return {"steps": steps, "plan": describe(json.loads((folder / "plan.json").read_text(encoding="utf-8")))}

    def _row(self, run: Run, scores: dict[str, Any], usage: Usage, facts: dict[str, Any]) -> Row:
        names = list(self.pools.classes)
        ids = {case.id for case in self.pools.scored.cases}
        cases = {
            case["case"]: {"patient": case["patient"], "dice": [case[f"dice/{name}"] for name in names]}
            for case in scores["cases"]
        }
        if set(cases) != ids:
            raise FoveateError(f"{len(cases)} cases were scored, not the {len(ids)} of the list")
        if any(scores[key] is None for key in ("dice", *(f"dice/{name}" for name in names))):
            raise FoveateError("a class is in no scored case and in no prediction, so that it has no score")
        settings = asdict(run)
        return {
            "dataset": self.dataset,
            "scored": settings.pop("scored"),
            "without": self.without,
            **settings,
            "minutes": f"{run.minutes:g}",
            "train_cases": len(self.pools.train.cases),
            "steps": facts["steps"],
            "dice": round(scores["dice"], 5),
            **{f"dice_{name}": round(scores[f"dice/{name}"], 5) for name in names},
            f"hd95_{scores['unit']}": round(scores[f"hd95_{scores['unit']}"], 3),
            "nsd": round(scores["nsd"], 4),
            "seconds": round(usage.seconds, 1),
            "cpu_seconds": round(usage.cpu_seconds),
            "peak_rss_mb": round(usage.peak_rss_mb),
            "commit": self.commit,
            "machine": machine(self.threads),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "plan": facts["plan"],
            CASES: cases,
        }


def content(pools: Pools) -> str:
    """A digest of the cases of both pools and their classes: where the files lie, their sizes and times of change."""

    def files(cohort: Cohort) -> list[Any]:
        return [
            [case.id, case.patient, [_state(file) for file in (*case.images, *([case.label] if case.label else []))]]
            for case in cohort.cases
        ]

    train = pools.train
    return digest([files(train), files(pools.scored), dict(pools.classes), train.tree, train.ignore, train.channels])


def _state(file: Path) -> tuple[str, int, int]:
    found = file.stat()
    return str(file.resolve()), found.st_size, int(found.st_mtime)


def digest(made_of: Any) -> str:
    """Ten hexadecimal digits of whatever JSON can hold."""
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:10]


def describe(plan: dict[str, Any]) -> str:
    """A plan in one line."""
    spacing, patch, widths = ("x".join(f"{n:g}" for n in plan[key]) for key in ("spacing", "patch", "widths"))
    unit = "mm" if plan["dims"] == 3 else "pixels"
    return f"spacing {spacing} {unit}, patch {patch}, batch {plan['batch']}, widths {widths}"
