"""Training throughput beside nnU-Net: whole steps, augmentation included, at the same patch, widths and batch.

    python benchmarks/throughput.py [--data DIR] [--rounds 4] [--steps 5] [--threads 2]

Each side is a process that trains for ever: Foveate's loop in this environment, nnU-Net's trainer in one of its own
that is made here (benchmarks/runs/nnunet-venv). They take turns of a few steps; who is not measured is stopped
(SIGSTOP, with its workers), so that no side computes, or reads ahead, in the other's turn. The first step after a
stop is not counted. Voxels per second are medians over turns; ratios are taken within each round.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
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
from pathlib import Path

from common import ROOT, RUNS, commit, cores, data_folder, machine, markdown_table, write_section
from foveate.cohort.layouts import read_ids

NNUNET, TORCH = "2.8.1", "2.13.0"
PATCH, AUGMENTED = (40, 56, 40), (48, 56, 48)
WIDTHS = (32, 64, 128, 256)
BATCH = 2
DATASET = "Dataset004_Hippocampus"
LOG = RUNS / "throughput.log"
WARM_UP = 3  # steps
Table = list[list[str]]


class Side:
    """A process that prints a line about itself and then one per step; stopped but in its own turns."""

    def __init__(self, name: str, command: Sequence[str | Path], env: dict[str, str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=LOG.open("a"),
            bufsize=0,
            env=os.environ | env,
            start_new_session=True,
        )
        self.facts = json.loads(self._line())
        self.steps(WARM_UP)

    def steps(self, number: int) -> list[float]:
        """Seconds of each of ``number`` steps, after one that may have begun before."""
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], 0)[0]:  # printed just before the stop
            self._line()
        os.killpg(self.process.pid, signal.SIGCONT)
        times = []
        for _ in range(number + 1):
            self._line()
            times.append(time.monotonic())
        os.killpg(self.process.pid, signal.SIGSTOP)
        return [after - before for before, after in itertools.pairwise(times)]

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


def interleave(sides: Sequence[Side], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds per step by side, one mean per turn: A B C A B C ..."""
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            times[side.name].append(statistics.fmean(side.steps(steps)))
        print(
            f"round {number + 1}: " + ", ".join(f"{name} {turn[-1]:.3f} s" for name, turn in times.items()), flush=True
        )
    return times


@contextlib.contextmanager
def running(commands: dict[str, list[str | Path]], env: dict[str, str]) -> Iterator[list[Side]]:
    """The sides, started one after the other; killed at the end."""
    sides: list[Side] = []
    try:
        for name, command in commands.items():
            sides.append(Side(name, command, env))
        yield sides
    finally:
        for side in sides:
            side.close()


def nnunet_environment() -> Path:
    """The bin folder of an environment with nnU-Net, made when it is not there."""
    venv = RUNS / "nnunet-venv"
    ready = venv / f"ready-{NNUNET}-{TORCH}"
    if not ready.exists():
        print(f"Installing nnU-Net {NNUNET} into {venv}: minutes, once")
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, f"nnunetv2=={NNUNET}", f"torch=={TORCH}"], check=True)
        ready.touch()
    return venv / "bin"


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


def training_rows(times: dict[str, list[float]], sides: Sequence[Side], voxels: int) -> Table:
    """One table row per side: precision, parameters, seconds a step, voxels per second, ratio to the last side."""
    reference = times[sides[-1].name]
    rows = []
    for side in sides:
        turns = times[side.name]
        ratios = [other / own for own, other in zip(turns, reference, strict=True)]
        spread = "1" if side is sides[-1] else f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        middle = statistics.median(turns)
        parameters = f"{side.facts['parameters'] / 1e6:.2f} M" if "parameters" in side.facts else "-"
        rows.append(
            [
                side.name,
                side.facts.get("precision", "-"),
                parameters,
                f"{middle:.3f}",
                f"{voxels / middle / 1e3:.0f} k",
                spread,
            ]
        )
    return rows


def section(trained: Table, augmented: Table, rounds: int, steps: int, threads: int) -> str:
    """The Markdown of the section."""
    header = ["", "precision", "parameters", "seconds a step", "voxels/s", "times nnU-Net (range over rounds)"]
    sizes = ["x".join(map(str, patch)) for patch in (PATCH, AUGMENTED)]
    options = f"--rounds {rounds} --steps {steps} --threads {threads}"
    about = (
        "nnU-Net trains its planned network (two plain convolutions per stage), in float32 on every CPU, with as many "
        "augmentation workers as threads; Foveate trains its own U-Net of the same widths (one residual block per "
        "encoder stage, one convolution per decoder stage), in bfloat16 where the processor computes with it. Both "
        "use deep supervision. The sides take turns, and the one that is not measured is stopped; medians over turns."
    )
    origin = [f"`python benchmarks/throughput.py {options}`", f"commit {commit()}", machine(threads), f"torch {TORCH}"]
    turns = f"{rounds} turns of {steps} steps"
    shape = f"patch {sizes[0]}, batch {BATCH}, widths {'-'.join(map(str, WIDTHS))}"
    parts = [
        f"Whole training steps, {shape}, {threads} threads, {turns}:",
        markdown_table(header, trained),
        f"Reading and augmentation alone, patch {sizes[1]}, batch {BATCH}, one thread, {turns}:",
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
    RUNS.mkdir(parents=True, exist_ok=True)
    binaries = nnunet_environment()
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
            times = interleave(sides, arguments.rounds, arguments.steps)
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
