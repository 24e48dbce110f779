"""Peak resident memory of predicting one large volume, above the loaded input, for few and for many classes.

    python benchmarks/predict_memory.py [--shape 512 512 300] [--classes 5 60] [--patch 128 128 64] [--spacing 1 1 1]

Each row is a process of its own with a small network of random weights and little overlap of the windows: memory is
measured, not quality or speed, and it depends on neither.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time

import numpy as np

from common import commit, cores, machine, markdown_table, write_section

GOAL = 3.0  # GiB
SPACING = (0.8, 0.8, 1.0)  # mm of the scan; at another spacing of the network, logits are resampled too


def measure(shape: tuple[int, ...], classes: int, patch: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    """Predict once and print the gigabytes above the loaded input and the seconds."""
    import psutil
    import torch

    from foveate.cohort.plan import ChannelPlan, Plan
    from foveate.config import NetworkConfig
    from foveate.networks import build_network
    from foveate.predict.predictor import Predictor
    from foveate.tasks import build_task

    plan = Plan(
        dims=3,
        spacing=spacing,
        patch=patch,
        batch=2,
        channels=(ChannelPlan(name="MR", normalisation="zscore"),),
        classes={f"class_{value}": value for value in range(1, classes + 1)},
        widths=(8, 16, 32),
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    )
    task = build_task(plan)
    torch.manual_seed(0)
    predictor = Predictor(build_network(NetworkConfig(), plan, task.channels), task, plan)
    predictor.predict(np.zeros((16, 16, 16), np.float32), spacing=spacing)  # libraries loaded, buffers made
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    process = psutil.Process()
    loaded = process.memory_info().rss
    peak, done = [loaded], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    labels = predictor.predict(array, affine=np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1]), overlap=0.1)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    assert labels.shape == shape
    print((peak[0] - loaded) / 2**30, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 300))
    parser.add_argument("--classes", type=int, nargs="+", default=(5, 60))
    parser.add_argument("--patch", type=int, nargs=3, default=(128, 128, 64))
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.0, 1.0, 1.0), help="of the network, in mm")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(tuple(options.shape), options.classes[0], tuple(options.patch), tuple(options.spacing))
        return
    rows = []
    for classes in options.classes:
        numbers = {
            "--shape": options.shape,
            "--classes": [classes],
            "--patch": options.patch,
            "--spacing": options.spacing,
        }
        arguments = [str(word) for name, values in numbers.items() for word in (name, *values)] + ["--one"]
        done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
        peak, seconds = (float(word) for word in done.stdout.split())
        rows.append((classes, f"{peak:.2f} GiB", f"< {GOAL:.0f} GiB", f"{seconds:.0f}"))
        print(*rows[-1], sep=", ", flush=True)
    shape, grid = (" x ".join(f"{n:g}" for n in numbers) for numbers in (options.shape, options.spacing))
    text = f"""{shape} voxels of {" x ".join(map(str, SPACING))} mm, a small network at {grid} mm:

{markdown_table(("classes", "peak above the loaded input", "goal", "seconds"), rows)}

`{" ".join(["python benchmarks/predict_memory.py", *sys.argv[1:]])}` · commit {commit()} · {machine(cores())}"""
    print(text)
    write_section("memory", text)


if __name__ == "__main__":
    main()
