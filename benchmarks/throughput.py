"""Training throughput beside nnU-Net: whole steps, augmentation included, at the same patch, widths and batch.

    python benchmarks/throughput.py [--data DIR] [--rounds 4] [--steps 5] [--threads 2]

Each side is a process that trains for ever: Foveate's loop in this environment, nnU-Net's trainer in one of its own
that is made here (benchmarks/runs/peers/nnunet-venv). They take turns of a few steps; who is not measured is stopped
(SIGSTOP, with its workers), so that no side computes, or reads ahead, in the other's turn. The first step after a
stop is not counted. Voxels per second are medians over turns; ratios are taken within each round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import psutil

from common import ROOT, RUNS, commit, cores, data_folder, machine, markdown_table, write_section
from foveate.cohort.layouts import read_ids
from peers.adapter import TORCH, environment

NNUNET = "2.8.1"
PATCH, AUGMENTED = (40, 56, 40), (48, 56, 48)
WIDTHS = (32, 64, 128, 256)
BATCH = 2
DATASET = "Dataset004_Hippocampus"
LOG = RUNS / "throughput.log"
WARM_UP = 3  # steps
Table = list[list[str]]


class Turn(NamedTuple):
    """Seconds per step: of the clock, and of processors, which hardly depends on what else runs."""

    wall: float
    processor: float


class Side:
    """A process that prints a line about itself and then one per step; stopped but in its own turns."""

    def __init__(self, name: str, command: Sequence[str | Path], env: dict[str, str]) -> None:
        self.name = name
        LOG.parent.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=LOG.open("a"),
            bufsize=0,
            env=os.environ | env,
            start_new_session=True,
        )
        try:
            self.facts = json.loads(self._line())
            self.steps(WARM_UP)
        except BaseException:
            self.close()
            raise

    def steps(self, number: int) -> Turn:
        """A turn of ``number`` steps, after one that may have begun before and does not count."""
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], 0)[0]:  # printed just before the stop
            self._line()
        os.killpg(self.process.pid, signal.SIGCONT)
        self._line()
        started, busy = time.monotonic(), self._processor_seconds()
        for _ in range(number):
            self._line()
        wall, busy = time.monotonic() - started, self._processor_seconds() - busy
        os.killpg(self.process.pid, signal.SIGSTOP)
        return Turn(wall / number, busy / number)

    def _processor_seconds(self) -> float:
        """User and system time so far, of all threads and of augmentation workers."""
        leader = psutil.Process(self.process.pid)
        times = [process.cpu_times() for process in (leader, *leader.children(recursive=True))]
        return sum(each.user + each.system for each in times)

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        if not line:
            raise SystemExit(f"{self.name} ended; its last words are in {LOG}")
        return line

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def interleave(sides: Sequence[Side], rounds: int, steps: int) -> dict[str, list[Turn]]:
    """Turns by side, taken in the order A B C A B C ..."""
    times: dict[str, list[Turn]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            times[side.name].append(side.steps(steps))
        print(
            f"round {number + 1}: " + ", ".join(f"{name} {turns[-1].wall:.3f} s" for name, turns in times.items()),
            flush=True,
        )
    return times


@contextlib.contextmanager
def running(commands: dict[str, list[str | Path]], env: dict[str, str]) -> Iterator[list[Side]]:
    """The sides, started one after the other; killed at the end, which for them SIGTERM is too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sides: list[Side] = []
    try:
        for name, command in commands.items():
            sides.append(Side(name, command, env))
        yield sides
    finally:
        for side in sides:
            side.close()


def nnunet_dataset(data: Path, binaries: Path) -> tuple[Path, dict[str, str]]:
    """32 labelled scans in nnU-Net's raw layout, planned and preprocessed by its own command; and its variables."""
    folders = {key: RUNS / "nnunet" / key for key in ("raw", "preprocessed", "results")}
    env = {f"nnUNet_{key}": str(folder) for key, folder in folders.items()}
    raw = folders["raw"] / DATASET
    if not (folders["preprocessed"] / DATASET / "nnUNetPlans_3d_fullres").is_dir():
        ids = read_ids(data / "labelled_32.txt")
        for folder, suffix in (("images", "_0000"), ("labels", "")):
            target = raw / f"{folder}Tr"
            target.mkdir(parents=True, exist_ok=True)
            for case in ids:
                shutil.copyfile(data / folder / f"{case}.nii.gz", target / f"{case}{suffix}.nii.gz")
        labels = {"background": 0, "anterior": 1, "posterior": 2}
        about = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(ids), "file_ending": ".nii.gz"}
        (raw / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
        command = [str(binaries / "nnUNetv2_plan_and_preprocess"), "-d", "4", "-c", "3d_fullres", "-np", "1"]
        with LOG.open("a") as log:
            subprocess.run(command, env=os.environ | env, stdout=log, stderr=log, check=True)
    return raw, env


def shape_options(patch: Sequence[int]) -> list[str]:
    return ["--patch", *map(str, patch), "--batch", str(BATCH), "--widths", *map(str, WIDTHS)]


def training_rows(times: dict[str, list[Turn]], sides: Sequence[Side], voxels: int) -> Table:
    """One row per side: precision, parameters, seconds a step, voxels per second, both ratios to the last side."""
    reference = times[sides[-1].name]
    rows = []
    for side in sides:
        turns = times[side.name]
        ratios = []
        for field in Turn._fields:
            each = [getattr(o, field) / getattr(t, field) for t, o in zip(turns, reference, strict=True)]
            ratios.append(f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})")
        wall, processor = (statistics.median(column) for column in zip(*turns, strict=True))
        parameters = f"{side.facts['parameters'] / 1e6:.2f} M" if "parameters" in side.facts else "-"
        row = [side.name, side.facts.get("precision", "-"), parameters]
        row += [f"{wall:.3f}", f"{processor:.3f}", f"{voxels / wall / 1e3:.0f} k"]
        rows.append(row + (["1", "1"] if side is sides[-1] else ratios))
    return rows


def section(trained: Table, augmented: Table, rounds: int, steps: int, threads: int) -> str:
    """The Markdown of the section."""
    header = ["", "precision", "parameters", "seconds a step", "processor seconds", "voxels/s"]
    header += ["voxels/s over nnU-Net's (range over rounds)", "the same by processor time"]
    sizes = ["x".join(map(str, patch)) for patch in (PATCH, AUGMENTED)]
    options = f"--rounds {rounds} --steps {steps} --threads {threads}"
    about = (
        "nnU-Net trains its planned network (two plain convolutions per stage), in float32 on every CPU, with as many "
        "augmentation workers as threads; Foveate trains its own U-Net of the same widths (one residual block per "
        "encoder stage, one convolution per decoder stage), in bfloat16 where the processor computes with it. Both "
        "use deep supervision. The sides take turns, and the one that is not measured is stopped; medians over turns."
    )
    origin = [f"`python benchmarks/throughput.py {options}`", f"commit {commit()}", machine(threads)]
    origin.append(f"torch {version('torch')}, and {TORCH[0]} for nnU-Net")
    turns = [f"{rounds} turns of {count} steps" for count in (steps, 10 * steps)]
    shape = f"patch {sizes[0]}, batch {BATCH}, widths {'-'.join(map(str, WIDTHS))}"
    parts = [
        f"Whole training steps, {shape}, {threads} threads, {turns[0]}:",
        markdown_table(header, trained),
        f"Reading and augmentation alone, patch {sizes[1]}, batch {BATCH}, one thread, {turns[1]}:",
        markdown_table([header[0], *header[3:]], [[name, *cells] for name, _, _, *cells in augmented]),
        about,
    ]
    return "\n\n".join([*parts, " · ".join([*origin, f"{datetime.now(UTC):%Y-%m-%d}"])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_folder("hippocampus"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="steps per turn")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--no-docs", action="store_true", help="print only")
    arguments = parser.parse_args()
    binaries = environment("nnunet", f"nnunetv2=={NNUNET}")
    raw, env = nnunet_dataset(arguments.data, binaries)
    folder = Path(__file__).parent
    ours: list[str | Path] = [sys.executable, folder / "throughput_foveate.py", raw, "--cache", RUNS / "prepared"]
    theirs: list[str | Path] = [binaries / "python", folder / "throughput_nnunet.py"]
    theirs.append(RUNS / "nnunet" / "preprocessed" / DATASET)

    def compare(patch: Sequence[int], threads: int, *extra: str) -> Table:
        options = [*shape_options(patch), *extra]
        commands = {"Foveate": [*ours, *options]}
        if not extra:
            commands["Foveate, float32"] = [*ours, *options, "--precision", "float32"]
        commands[f"nnU-Net v{NNUNET}"] = [*theirs, *options, "--threads", str(threads)]
        variables = {**env, "OMP_NUM_THREADS": str(threads), "nnUNet_n_proc_DA": str(threads)}
        with running(commands, variables) as sides:
            times = interleave(sides, arguments.rounds, arguments.steps * (10 if extra else 1))
            return training_rows(times, sides, BATCH * math.prod(patch))

    trained = compare(PATCH, arguments.threads)
    augmented = compare(AUGMENTED, 1, "--augmentation-only")
    text = section(trained, augmented, arguments.rounds, arguments.steps, arguments.threads)
    print(text)
    if not arguments.no_docs:
        write_section("throughput", text)
        print(f"\nWritten to {(ROOT / 'docs' / 'benchmarks.md').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
