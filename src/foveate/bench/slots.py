"""``foveate bench slots``: what each attention block costs where it usually sits in the U-Net.

Seconds of forward and backward over all places of its slot, beside a convolution of as many parameters in the same
places, and as a share of a step of the whole network. ``foveate bench attention`` shows how the cost grows.
"""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foveate.attention import ATTENTION
from foveate.attention.dot_product import check_tokens
from foveate.attention.matched import MatchedConvolution, parameters_of
from foveate.bench import attention
from foveate.bench.ablation import USUAL
from foveate.bench.machine import commit, cores, machine
from foveate.bench.page import markdown_table, write_section
from foveate.cohort.plan import ChannelPlan, Plan
from foveate.config import NetworkConfig
from foveate.errors import refuse
from foveate.networks.unet import UNet
from foveate.predict.device import pick_device

BOUND = 10.0  # seconds, of which each measurement takes up to a quarter


@dataclass(frozen=True)
class Settings:
    """What the command was told. patch: voxels per axis. widths: channels per stage; every stage but the first halves
    the grid. docs: page and the name of its section."""

    blocks: Sequence[str] = ("all",)
    patch: Sequence[int] = (40, 56, 40)
    batch: int = 2
    widths: Sequence[int] = (16, 32, 64, 128)
    threads: int | None = None
    device: str = "cpu"
    docs: tuple[Path, str] | None = None


@dataclass(frozen=True)
class Cost:
    """Of a block in all places of its slot. Seconds of forward and backward; peak MiB are those of the largest."""

    block: str
    slot: str
    parameters: int
    seconds: float
    plain_seconds: float
    peak_mib: float
    plain_mib: float


def slots(settings: Settings, told: Callable[[str], object] = print) -> str:
    """Measure and return the table in Markdown. Raises InputError for settings that cannot be used."""
    names = check(settings)
    costs = []
    with attention.torch_threads(settings.threads):
        step = network_seconds(settings)
        told(f"network without a block: {step:.3f} s a step")
        for name in names:
            costs.append(cost := measure_block(name, settings))
            told(f"{name} ({cost.slot}): {cost.seconds:.4f} s, convolution {cost.plain_seconds:.4f} s")
    text = render(costs, step, settings)
    if settings.docs:
        write_section(settings.docs[1], text, settings.docs[0])
    return text


def check(settings: Settings) -> list[str]:
    """The blocks in full. Raises InputError."""
    if min(settings.widths, default=0) < 1:
        raise refuse(
            "--widths", "numbers", list(settings.widths), "one number from 1 on for each stage", "Correct them."
        )
    least = 2 ** (len(settings.widths) - 1)
    if len(settings.patch) not in (2, 3) or min(settings.patch) < 1 or any(n % least for n in settings.patch):
        raise refuse("--patch", "sides", list(settings.patch), f"two or three multiples of {least}", "Correct them.")
    if settings.batch < 1:
        raise refuse("--batch", "number", settings.batch, "1 or more", "Correct it.")
    names = attention.check_shared(settings.blocks, settings.device, settings.docs)
    for name in names:
        _, _, *size = next(places(USUAL.get(name, "encoder"), settings))
        check_tokens("--patch", name, math.prod(size), getattr(ATTENTION[name], "max_tokens", sys.maxsize))
    return names


def places(slot: str, settings: Settings) -> Iterator[tuple[int, ...]]:
    """The shape of every feature of a slot, ``(B, C, *S)``, finest first."""
    count = len(settings.widths)
    stages = {"encoder": range(count), "skip": range(count - 1), "bottleneck": range(count - 1, count)}[slot]
    for stage in stages:
        yield settings.batch, settings.widths[stage], *(n // 2**stage for n in settings.patch)


def measure_block(name: str, settings: Settings) -> Cost:
    """The block, and the convolution, one place after the other."""
    slot, dims, device = USUAL.get(name, "encoder"), len(settings.patch), pick_device(settings.device)
    parameters, seconds, peaks = 0, [0.0, 0.0], [0.0, 0.0]
    for shape in places(slot, settings):
        torch.manual_seed(0)
        block: Any = ATTENTION[name](shape[1], dims).to(device)
        parameters += parameters_of(block)
        plain = MatchedConvolution(shape[1], dims, parameters_of(block)).to(device)
        for number, (module, inputs) in enumerate([(block, getattr(block, "inputs", 1)), (plain, 1)]):
            images = [torch.randn(shape, device=device) for _ in range(inputs)]
            forward, backward, _, peak = attention.measure(module, images, BOUND)
            seconds[number] += forward + backward
            peaks[number] = max(peaks[number], peak)
    return Cost(name, slot, parameters, *seconds, *peaks)


def network(settings: Settings, config: NetworkConfig) -> UNet:
    """The U-Net of one channel and three classes, which answers at full resolution alone."""
    dims = len(settings.patch)
    plan = Plan(
        dims=dims,  # type: ignore[arg-type]  # checked
        spacing=(1.0,) * dims,
        patch=tuple(settings.patch),
        batch=settings.batch,
        channels=(ChannelPlan(name="image", normalisation="zscore"),),
        classes={"first": 1, "second": 2},
        widths=tuple(settings.widths),
        strides=tuple((1 + (stage > 0),) * dims for stage in range(len(settings.widths))),
    )
    return UNet(plan, 3, config).eval()


def network_seconds(settings: Settings) -> float:
    """Seconds of forward and backward of the network without a block."""
    device = pick_device(settings.device)
    image = torch.randn(settings.batch, 1, *settings.patch, device=device)
    return sum(attention.measure(network(settings, NetworkConfig()).to(device), [image], BOUND)[:2])


def render(costs: Sequence[Cost], step: float, settings: Settings) -> str:
    """The table, how to read it, and what it was made with."""
    header = ["block", "slot", "parameters", "block", "its convolution", "time / convolution", "memory / convolution"]
    header.append("of the network's step")
    lines = [
        [
            cost.block,
            cost.slot,
            str(cost.parameters),
            f"{1e3 * cost.seconds:.3g} ms, {cost.peak_mib:.3g} MiB",
            f"{1e3 * cost.plain_seconds:.3g} ms, {cost.plain_mib:.3g} MiB",
            f"{cost.seconds / cost.plain_seconds:.2f}",
            f"{cost.peak_mib / cost.plain_mib:.2f}",
            f"{100 * cost.seconds / step:.1f}%",
        ]
        for cost in costs
    ]
    size, widths = "x".join(map(str, settings.patch)), ", ".join(map(str, settings.widths))
    about = (
        f"{settings.batch} images of {size} voxels, a U-Net of widths {widths}: milliseconds of forward and backward "
        "in all places of the slot together, the fastest of a few steps in each, and the most memory that torch held "
        "at once in the largest, beyond weights and input. The network without a block takes "
        f"{1e3 * step:.0f} ms, loss and optimiser not counted."
    )
    threads = settings.threads or cores()
    parts = [f"foveate bench slots --blocks {','.join(settings.blocks)} --patch {','.join(map(str, settings.patch))}"]
    parts.append(f"--batch {settings.batch} --widths {','.join(map(str, settings.widths))} --threads {threads}")
    command = " ".join([*parts, f"--device {settings.device}"])
    where = [f"`{command}`", machine(threads), f"commit {commit()}", datetime.date.today().isoformat()]
    return "\n\n".join([markdown_table(header, lines), about, " · ".join(where)])
