"""What the adapters of peers share: their command line, an environment for the peer, and running its commands.

The command line is the one that ``foveate bench label-efficiency --peer NAME=ADAPTER.py`` calls:

    ADAPTER.py TRAIN LABELLED IMAGES OUT --minutes M --threads N --seed S --device D --clock C

TRAIN is a dataset in the plain layout, LABELLED the file with the ids whose labels may be used, IMAGES the folder of
the scans to predict. An adapter leaves OUT/predictions, a label file for each scan under the scan's name, and
OUT/peer.json: {"steps": ..., "plan": ...}. The minutes are those of everything up to the trained model.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.bench.usage import END_WITH_PARENT
from foveate.cohort.cohort import Cohort
from foveate.cohort.layouts import find_cohort, keep_labelled, read_ids
from foveate.files import write_atomic
from foveate.io import case_stem, image_suffix

ENVIRONMENTS = Path(__file__).resolve().parents[1] / "runs" / "peers"
TORCH = ("torch==2.14.1", "torchvision==0.29.1")  # a pair: peers import both
STARTED = time.time()


@dataclass(frozen=True)
class Task:
    """What an adapter is asked for. cohort: of TRAIN, in which only the cases of LABELLED have a label."""

    cohort: Cohort
    images: Path
    out: Path
    minutes: float
    threads: int
    seed: int
    device: str
    clock: str

    @property
    def left(self) -> float:
        """Seconds until the model has to be there, by the clock that was asked for."""
        spent = time.time() - STARTED
        if self.clock == "processor":  # of this process and of those that it has waited for, as foveate counts it
            spent = sum(os.times()[:4]) / self.threads
        return 60 * self.minutes - spent

    @property
    def cuda(self) -> bool:
        return self.device.startswith("gpu")

    def scans(self) -> dict[str, Path]:
        """The scans to predict, by case id."""
        return {case_stem(file): file for file in sorted(self.images.iterdir()) if image_suffix(file)}

    def done(self, steps: int, plan: str) -> None:
        write_atomic(self.out / "peer.json", json.dumps({"steps": steps, "plan": plan}) + "\n")


def read_task(about: str | None) -> Task:
    """The task of the command line; ends the program where a peer cannot take the data."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "labelled", "images", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu", "gpu:0"])
    parser.add_argument("--clock", default="wall", choices=["wall", "processor"])
    given = parser.parse_args()
    cohort = keep_labelled(find_cohort(given.train), read_ids(given.labelled), given.labelled)
    if any(len(case.images) > 1 for case in cohort.cases) or len(cohort.channels) > 1:
        raise SystemExit("scans of several channels are not handed to peers")
    out = given.out.resolve()
    (out / "predictions").mkdir(parents=True, exist_ok=True)
    told = (given.minutes, given.threads, given.seed, given.device, given.clock)
    return Task(cohort, given.images.resolve(), out, *told)


def environment(name: str, *packages: str) -> Path:
    """The bin folder of an environment with a peer's packages, made when it is not there."""
    venv = ENVIRONMENTS / f"{name}-venv"
    ready = venv / "ready"
    wanted = " ".join([*TORCH, *packages])
    if not ready.exists() or ready.read_text(encoding="utf-8") != wanted:
        print(f"Installing {wanted} into {venv}: minutes, once", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *TORCH], check=True)  # alone, so that nothing asks for another build of it
        subprocess.run([*pip, *packages, *TORCH], check=True)
        ready.write_text(wanted, encoding="utf-8")
    return venv / "bin"


def run(command: Sequence[str | Path], env: Mapping[str, str]) -> None:
    """Run a peer's own command, without this package on its path; ends the program where it fails."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | dict(env)
    # The adapter dies with its benchmark, and this command with the adapter.
    code = subprocess.run([str(part) for part in command], env=variables, preexec_fn=END_WITH_PARENT).returncode
    if code:
        raise SystemExit(f"{Path(command[0]).name} ended with exit code {code}")


def link(source: Path, target: Path) -> None:
    """A hard link where possible, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
