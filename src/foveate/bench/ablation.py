"""``foveate bench ablation``: does an attention block earn its place, or would a convolution do as well?

Each block sits in its usual slot of the network, against the same network without it and against the same number of
parameters spent on convolution; the same data, labels, seeds and time. The runs are those of ``label-efficiency``, with
the block in the name of the method (``supervised+skip=gate``) and rows in a file of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from foveate.attention import ATTENTION
from foveate.attention.matched import PREFIX
from foveate.bench.attention import block_names
from foveate.bench.label_efficiency import Settings, check_methods, do_runs
from foveate.bench.page import markdown_table, write_section
from foveate.bench.plot import write_forest
from foveate.bench.rows import Row
from foveate.bench.runs import split_variant, variant
from foveate.bench.table import (
    Estimate,
    Group,
    cell,
    group_rows,
    mean,
    mean_dice,
    origin,
    paired,
    setting_of,
    training_minutes,
)
from foveate.errors import refuse

_COARSE = "spp non_local position channel criss_cross axial linear external window neighbourhood deformable epa"
USUAL = {"gate": "skip", "aff": "skip", **dict.fromkeys(_COARSE.split(), "bottleneck")}
"""Where a block usually sits in published networks; those that are not named here follow every encoder stage."""

SEEDS = 3  # before a block may be called better


@dataclass(frozen=True)
class Ablation(Settings):
    """What the command was told. blocks: names of ATTENTION, or ``all``. convolutions: the matched ones run, too."""

    methods: Sequence[str] = ("supervised",)
    blocks: Sequence[str] = ("all",)
    convolutions: bool = True

    @property
    def file(self) -> Path:
        return self.results / f"{self.dataset}-ablation.csv"

    def variants(self) -> list[str]:
        """The name of every method, without a block and with each. Raises InputError for an unknown block."""
        named = block_names(self.blocks)
        placed = [(USUAL.get(name, "encoder"), block) for name in named for block in (name, PREFIX + name)]
        if not self.convolutions:
            placed = [(slot, block) for slot, block in placed if not block.startswith(PREFIX)]
        methods = check_methods(self)
        if any(split_variant(method)[1] for method in methods):
            found, fix = ", ".join(methods), "Leave out what follows the +."
            raise refuse("--methods", "methods", found, "methods alone", fix)
        return [*methods, *(variant(method, slot, block) for method in methods for slot, block in placed)]


def ablation(settings: Ablation, told: Callable[[str], object] = print) -> str:
    """Do the runs that are left and return the table in Markdown; raises as ``label_efficiency`` does."""
    return do_runs(settings, settings.variants(), _show, told)


def _show(settings: Settings) -> str:
    """The table, in the docs too where asked for, with the plot of differences beside the rows."""
    rows = settings.shared.read(settings.file)
    text = render_ablation(rows, settings.named)
    if not rows:
        return text
    picture = settings.results / f"{settings.dataset}-ablation-{settings.shared.name}.png"
    lines = _lines(rows)
    several = len({line.method for line in lines}) > 1
    differences = {f"{line.method}: " * several + f"{line.block} ({line.slot})": line.difference for line in lines}
    if differences:
        write_forest(differences, settings.dataset, "Dice with the block minus Dice without it", picture)
    if settings.docs:
        page, section = settings.docs
        link = Path(os.path.relpath(picture.resolve(), page.resolve().parent)).as_posix()
        write_section(section, f"{text}\n\n![Difference that each block makes]({link})", page)
    return text


class Line(NamedTuple):
    """A block, its rows and those of the same method without it."""

    method: str
    slot: str
    block: str
    group: Group
    without: Group

    @property
    def difference(self) -> Estimate:
        return paired(self.group, self.without)


def _lines(rows: Sequence[Row]) -> list[Line]:
    """Whatever can be compared, the best first."""
    groups = group_rows(rows)
    lines = []
    for (labels, name), group in groups.items():
        method, slots = split_variant(name)
        if slots and (labels, method) in groups:
            ((slot, block),) = slots.items()
            lines.append(Line(method, slot, block, group, groups[labels, method]))
    return sorted(lines, key=lambda line: -line.difference.value)


def render_ablation(rows: Sequence[Row], more: str = "") -> str:
    """The Markdown of the rows of one setting: each block beside nothing and beside its matched convolution.

    more: options of the command that no row tells.
    """
    if not rows:
        return "Not measured yet."
    groups = group_rows(rows)
    header = ["block", "slot", "method", "seeds", "Dice (95%)", "difference to none (95%)"]
    header += ["difference to its convolution (95%)", "so", "steps", "training min", "peak MiB"]
    cells = [
        _cells("none", "-", name, group, "-", "-", "-")
        for (_, name), group in groups.items()
        if not split_variant(name)[1]
    ]
    for line in _lines(rows):
        labels = next(iter(line.group.values()))["labels"]
        control = groups.get((labels, variant(line.method, line.slot, PREFIX + line.block)))
        over_control = paired(line.group, control) if control else None
        against = cell(over_control, "+.4f") if over_control else "-"
        verdict = judge(line.difference, over_control, len(line.group))
        shown = cell(line.difference, "+.4f")
        cells.append(_cells(line.block, line.slot, line.method, line.group, shown, against, verdict))
    about = (
        f"{len(rows[0]['cases'])} cases are scored. Intervals: bootstrap 95% over patients; differences are paired by "
        "case and seed. With one seed an interval holds the spread between cases alone, and two trainings that differ "
        "in nothing but chance may lie as far apart. A slower block has had fewer steps in the same time: that is a "
        "part of what it costs."
    )
    return "\n\n".join([markdown_table(header, cells), about, origin(rows, _command(rows, more))])


def judge(over_none: Estimate, over_convolution: Estimate | None, seeds: int) -> str:
    """What a block's differences say, in words. A block earns its place by three seeds, ahead of none and of its
    convolution by more than the intervals."""
    if not (over_none.low > 0 or over_none.high < 0):
        return "no difference shown"
    if seeds < SEEDS:
        return f"{'ahead of' if over_none.low > 0 else 'behind'} none, on fewer than {SEEDS} seeds"
    if over_none.high < 0:
        return "worse than none"
    if over_convolution is None or not over_convolution.low > 0:
        return "ahead of none, not of its convolution"
    return "earns its place"


def _cells(block: str, slot: str, method: str, group: Group, difference: str, against: str, verdict: str) -> list[str]:
    peak = max(float(row["peak_rss_mb"]) for row in group.values())
    cells = [block, slot, method, str(len(group)), cell(mean_dice(group), ".4f", ".3f"), difference, against, verdict]
    return [*cells, f"{mean(group, 'steps'):.0f}", f"{training_minutes(group):.1f}", f"{peak:.0f}"]


def _command(rows: Sequence[Row], more: str) -> str:
    setting, row = setting_of(rows[0]), rows[0]
    names = [split_variant(each["method"]) for each in rows]
    blocks = dict.fromkeys(block.removeprefix(PREFIX) for _, slots in names for block in slots.values())
    matched = any(block.startswith(PREFIX) for _, slots in names for block in slots.values())
    parts = [f"foveate bench ablation {row['dataset']} --methods {','.join(dict.fromkeys(name for name, _ in names))}"]
    parts.append(f"--blocks {'all' if len(blocks) == len(ATTENTION) else ','.join(blocks)}")
    parts.append("" if matched else "--no-convolutions")
    parts.append(f"--labels {','.join(map(str, sorted({int(each['labels']) for each in rows})))}")
    parts.append(f"--seeds {max(int(each['seed']) for each in rows) + 1} --minutes {setting.minutes:g}")
    parts.append(f"--score {setting.scored}.txt" + (f" --without {row['without']}.txt" if row["without"] else ""))
    parts += [setting.options, more]
    return " ".join(part for part in parts if part)
