"""One side of benchmarks/throughput.py: Foveate's own training loop, or its augmentation alone, for ever.

Prints one JSON line that describes the work, then a line per step, so that whoever reads can take the time.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch

from foveate.batches.prepare import prepare_cohort
from foveate.batches.sampler import Sampler
from foveate.cohort.check import check
from foveate.cohort.fingerprint import fingerprint
from foveate.cohort.plan import Plan
from foveate.cohort.planning import CPU, make_plan
from foveate.cohort.split import split_cases
from foveate.config import load_config
from foveate.engine.device import launch
from foveate.engine.loop import train_loop
from foveate.engine.recorder import build_optimisers
from foveate.engine.schedule import Schedule
from foveate.engine.settle import method_class
from foveate.engine.train import assemble

STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--patch", type=int, nargs=3, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--widths", type=int, nargs=4, required=True)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--augmentation-only", action="store_true")
    arguments = parser.parse_args()
    settings = load_config(
        None, [f"precision={arguments.precision}", "validation=0"], method="supervised", device="cpu", steps=10**9
    )
    fabric = launch(settings)
    report = check(arguments.data)
    plan = make_plan(report.cohort, fingerprint(report), CPU).model_copy(
        update={
            "patch": tuple(arguments.patch),
            "batch": arguments.batch,
            "widths": tuple(arguments.widths),
            "strides": STRIDES,
        }
    )
    prepared = prepare_cohort(report.cohort, plan, arguments.cache, 1)
    split = split_cases(report.cohort, settings.seed, settings.validation)
    sampler = Sampler(prepared, plan, settings.augment, split, settings.seed, fabric.device)
    if arguments.augmentation_only:
        augment(sampler, plan)
        return
    method = assemble(fabric, plan, settings, method_class(settings))
    optimisers, config = build_optimisers(method, settings.optimiser), settings.optimiser
    describe(
        parameters=sum(p.numel() for p in method.network.parameters()),
        precision="bfloat16" if "bf16" in str(fabric._precision.precision) else "float32",
    )
    train_loop(fabric, method, optimisers, sampler, Schedule(settings.steps, None), config, lambda losses: step())


def augment(sampler: Sampler, plan: Plan) -> None:
    """Read and augment one batch after the other in this thread."""
    describe()
    for number in itertools.count():
        sampler.batch(number, sampler.read(number, plan.batch, 0), 0)
        step()


def describe(**facts: object) -> None:
    print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, **facts}), flush=True)


def step() -> None:
    print("step", flush=True)


if __name__ == "__main__":
    main()
