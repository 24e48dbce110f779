"""``foveate bench attention``: what each attention block costs as the image grows.

Seconds and peak memory of forward and backward, for one image, against the number of voxels: beside a convolution of as
many parameters, and beside full attention, whose refusal of large images is lifted here. Seconds are the fastest of a
few steps, because others may use the machine.

Peak memory is what torch's allocator handed out beyond weights and input: on a GPU the allocator's own count, on a CPU
the sum over the profiler's record of every allocation and release, which is exact and the same at every run. The peak
of a child process would hold the interpreter, libraries and whatever the C library keeps, which is more than a small
block takes.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveate.attention import ATTENTION
from foveate.attention.matched import MatchedConvolution, parameters_of
from foveate.bench.machine import cores
from foveate.bench.page import check_section, write_section
from foveate.errors import refuse
from foveate.files import write_atomic
from foveate.predict.device import pick_device
from foveate.text import closest

CONVOLUTION = "convolution"
FULL = "non_local"  # full attention of one head, to which the others are compared
FEWEST = 5  # steps that are timed: others may use the machine just then
STEPS = 10  # that are timed, as long as they take no more than a quarter of the bound


@dataclass(frozen=True)
class Settings:
    """What the command was told; see its help for each. docs: page and the name of its section."""

    blocks: Sequence[str] = ("all",)
    cubes: Sequence[int] = (8, 12, 16, 24, 32)
    squares: Sequence[int] = (16, 32, 64, 128)
    channels: int = 32
    bound: float = 10.0
    threads: int | None = None
    device: str = "cpu"
    results: Path = Path("bench/results")
    docs: tuple[Path, str] | None = None


@dataclass(frozen=True)
class Point:
    """One block, or the convolution of as many parameters as a block, at one size.

    beside: the block that a convolution stands beside. Peak memory in MiB; that of forward holds what backward needs.
    """

    block: str
    beside: str
    dims: int
    side: int
    parameters: int
    forward_seconds: float
    backward_seconds: float
    forward_mib: float
    peak_mib: float

    @property
    def tokens(self) -> int:
        return self.side**self.dims

    @property
    def seconds(self) -> float:
        return self.forward_seconds + self.backward_seconds


def attention(settings: Settings, told: Callable[[str], object] = print) -> str:
    """Measure, write points and plots into the results folder, and return the tables in Markdown.

    told: gets a line for every point, and for each that is left out, with the reason. Raises InputError for settings
    that cannot be used, before anything is measured.
    """
    from foveate.bench.attention_page import render, write_plot

    names = check(settings)
    with torch_threads(settings.threads):
        points = measure_all(settings, names, told)
    stem = settings.results / f"attention-{settings.device.replace(':', '')}"
    write_points(points, stem.with_suffix(".csv"))
    text = render(points, settings)
    pictures = {"seconds": "seconds of forward and backward", "peak_mib": "peak memory in MiB"}
    for quantity, label in pictures.items():
        write_plot(points, quantity, label, Path(f"{stem}-{quantity}.png"))
    if settings.docs:
        (page, section), shown = settings.docs, [text]
        for quantity, label in pictures.items():
            link = os.path.relpath(Path(f"{stem}-{quantity}.png").resolve(), page.resolve().parent)
            shown.append(f"![{label}, by number of voxels]({Path(link).as_posix()})")
        write_section(section, "\n\n".join(shown), page)
    return text


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """torch computes with so many threads, by default as many as there are cores, and then with those of before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(settings: Settings) -> list[str]:
    """The blocks in full. Raises InputError."""
    names = check_shared(settings.blocks, settings.device, settings.docs)
    for option, sides in (("--cubes", settings.cubes), ("--squares", settings.squares)):
        if list(sides) != sorted(set(sides)) or min(sides, default=1) < 1:
            raise refuse(option, "sides", list(sides), "numbers from 1 on, each larger than the last", "Sort them.")
    for option, number in (("--channels", settings.channels), ("--bound", settings.bound)):
        if not (math.isfinite(number) and number > 0):
            raise refuse(option, "number", number, "a number above 0", "Correct it.")
    return names


def check_shared(blocks: Sequence[str], device: str, docs: tuple[Path, str] | None) -> list[str]:
    """The blocks in full, once device and page are known to be of use. Raises InputError."""
    if docs:
        check_section(docs[1], docs[0])
    if pick_device(device).type not in ("cpu", "cuda"):
        raise refuse("--device", "device", device, "cpu or gpu", "Memory is counted on these two alone.")
    return block_names(blocks)


def block_names(blocks: Sequence[str]) -> list[str]:
    """Names of ATTENTION, all of them for ``all`` alone. Raises InputError for an unknown one."""
    names = list(ATTENTION) if list(blocks) == ["all"] else list(blocks)
    for name in names:
        if name not in ATTENTION:
            raise refuse("--blocks", "block", name, f"all, or one of {', '.join(ATTENTION)}", closest(name, ATTENTION))
    return names


def measure_all(settings: Settings, names: Iterable[str], told: Callable[[str], object]) -> list[Point]:
    """Points of every block and of the convolution beside it, 3D first, small sizes first."""
    device, points = pick_device(settings.device), []
    for dims, sides in ((3, settings.cubes), (2, settings.squares)):
        convolutions: dict[tuple[int, int], tuple[float, ...]] = {}  # by parameters and side: many are of one width
        for name in [FULL, *[name for name in names if name != FULL]]:
            torch.manual_seed(0)
            block: Any = ATTENTION[name](settings.channels, dims).to(device)
            if hasattr(block, "max_tokens"):
                block.max_tokens = sys.maxsize
            plain = MatchedConvolution(settings.channels, dims, parameters_of(block)).to(device)
            inputs = getattr(block, "inputs", 1)
            before: Point | None = None
            for side in sides:
                shape = (1, settings.channels, *[side] * dims)
                growth = (side**dims / before.tokens) ** (1 + hasattr(block, "max_tokens")) if before else 0.0
                if before and before.seconds * growth > settings.bound:
                    told(
                        f"{name} at {side}^{dims} is left out: it would take about {before.seconds * growth:.0f} s, "
                        f"more than {settings.bound:g}"
                    )
                    break
                found = measure(block, [torch.randn(shape, device=device) for _ in range(inputs)], settings.bound)
                before = Point(name, "", dims, side, parameters_of(block), *found)
                key = parameters_of(plain), side
                if key not in convolutions:
                    convolutions[key] = measure(plain, [torch.randn(shape, device=device)], settings.bound)
                beside = Point(CONVOLUTION, name, dims, side, parameters_of(plain), *convolutions[key])
                points += [before, beside]
                told(
                    f"{name} at {side}^{dims}: {before.seconds:.4f} s, {before.peak_mib:.1f} MiB; convolution of "
                    f"{beside.parameters} parameters for {before.parameters}: {beside.seconds:.4f} s, "
                    f"{beside.peak_mib:.1f} MiB"
                )
    return points


def measure(module: nn.Module, inputs: Sequence[Tensor], bound: float) -> tuple[float, float, float, float]:
    """Seconds of forward and of backward, peak MiB of forward and of both; gradients reach the inputs too."""
    inputs = [x.requires_grad_() for x in inputs]
    device = inputs[0].device

    def clock() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    def step() -> tuple[float, float]:
        module.zero_grad()
        for x in inputs:
            x.grad = None
        started = clock()
        out = module(*inputs)
        between = clock()
        out.backward(torch.ones_like(out))
        return between - started, clock() - between

    step()  # what is made ready once
    times = [step()]
    while len(times) < FEWEST or (len(times) < STEPS and sum(map(sum, times)) < bound / 4):
        times.append(step())
    module.zero_grad()
    for x in inputs:
        x.grad = None
    forward, backward = (min(part) for part in zip(*times, strict=True))

    def both() -> None:
        out = module(*inputs)
        out.backward(torch.ones_like(out))

    return forward, backward, peak_mib(lambda: module(*inputs), device), peak_mib(both, device)


def peak_mib(call: Callable[[], object], device: torch.device) -> float:
    """The most memory in MiB that torch held at once during a call, beyond what it held before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - held) / 2**20
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its profiler tells stderr whenever it starts and stops
    with torch.autograd.profiler.profile(profile_memory=True, use_cpu=True) as profile:
        call()
    assert profile.kineto_results is not None
    changes = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def slope(points: Sequence[Point], quantity: str, last: int = 3) -> float:
    """Exponent a of quantity ~ tokens^a through the ``last`` largest sizes; nan where there are fewer.

    At small sizes the cost of calling dominates.
    """
    points = sorted(points, key=lambda point: point.tokens)[-last:]
    values = [getattr(point, quantity) for point in points]
    if len(points) < last or min(values) <= 0:
        return math.nan
    x = [math.log(point.tokens) for point in points]
    y = [math.log(value) for value in values]
    middle, level = sum(x) / last, sum(y) / last
    rise = sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True))
    return rise / sum((a - middle) ** 2 for a in x)


def write_points(points: Sequence[Point], path: Path) -> None:
    """One line per point, as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue())
