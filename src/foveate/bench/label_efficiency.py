"""``foveate bench label-efficiency``: methods by number of labels, all with the same network, data and time.

Every run is train, predict and evaluate with the public commands, one after the other on the same threads. Its row is
on disk as soon as it is scored; rows that are there are not run again, an interrupted training is continued, and
several of these commands may work on the same results at once. Scored cases lie outside the dataset that is trained
on. The averaged weights of the last step are scored, once.
"""

from __future__ import annotations

import os
import re
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foveate.bench.draws import Draws
from foveate.bench.machine import cores
from foveate.bench.page import check_section, write_section
from foveate.bench.plot import write_plot
from foveate.bench.pools import Classes, Pools, read_pools
from foveate.bench.rows import CASES, Row, read_columns, read_rows
from foveate.bench.runs import (
    PEER,
    PRETRAIN,
    Bench,
    Run,
    content,
    left_over,
    list_runs,
    split_variant,
    variant,
    work_off,
)
from foveate.bench.table import BASELINE, Setting, render
from foveate.cohort.listing import class_value
from foveate.config import load_config
from foveate.errors import FoveateError, refuse
from foveate.text import closest


@dataclass(frozen=True)
class Settings:
    """What the command was told; see its help for each.

    methods: names of METHODS, perhaps pre-trained or by other settings (``variant``), or ``all``. peers: adapter script
    by name. docs: page and the name of its section.
    """

    data: Path
    score: Path
    methods: Sequence[str] = (BASELINE, "mean_teacher")
    labels: Sequence[int] = (4, 8, 16)
    seeds: int = 3
    minutes: float = 15.0
    without: Path | None = None
    ceiling: bool = False
    peers: Mapping[str, Path] = field(default_factory=dict)
    threads: int | None = None
    device: str = "cpu"
    clock: str = "wall"
    classes: Classes | None = None
    results: Path = Path("bench/results")
    work: Path = Path("bench/work")
    docs: tuple[Path, str] | None = None
    dry_run: bool = False
    only_table: bool = False

    @property
    def dataset(self) -> str:
        return self.data.resolve().name

    @property
    def file(self) -> Path:
        """Where the rows are."""
        return self.results / f"{self.dataset}.csv"

    @property
    def plan(self) -> Path:
        """Beside the rows, so that who goes on from them on another machine trains in batches of the same size."""
        shared = self.shared
        return self.file.with_name(f"{self.file.stem}-{shared.scored}-{shared.threads}t-{shared.device}.plan.json")

    @property
    def shared(self) -> Setting:
        return Setting(self.score.stem, self.minutes, self.threads or cores(), self.device, self.clock)

    @property
    def named(self) -> str:
        """The option that names the classes, where it was given."""
        named = ",".join(f"{name}={value}" for name, value in (self.classes or {}).items())
        return f"--classes {shlex.quote(named)}" if named else ""


def label_efficiency(settings: Settings, told: Callable[[str], object] = print) -> str:
    """Do the runs that are left, draw the plot beside the rows and return the table in Markdown.

    told: gets a line for whatever happens. With ``dry_run`` nothing is done, and the text lists the runs.

    Raises InputError for settings and data that cannot be used, before anything runs, and FoveateError, once the table
    is written, when a run has failed.
    """
    return do_runs(settings, check_methods(settings), _show, told)


def do_runs(
    settings: Settings, methods: Sequence[str], show: Callable[[Settings], str], told: Callable[[str], object]
) -> str:
    """What ``label_efficiency`` does, for these methods; show: writes what is to be seen, and returns the table."""
    if settings.docs:
        check_section(settings.docs[1], settings.docs[0])
    failed: list[str] = []
    if not settings.only_table:
        runs = list_runs(methods, settings.labels, settings.ceiling, settings.seeds, settings.shared)
        scored = settings.shared.scored
        rows = read_rows(settings.file, lambda row: row["scored"] == scored, ["without", "plan"], ["train_cases"])
        left = left_over(runs, rows)
        told(f"{len(runs) - len(left)} of {len(runs)} runs are done; to do: {', '.join(r.name for r in left) or '-'}")
        if settings.dry_run:
            return ""
        if left:
            failed = _run(settings, left, rows, told)
    text = show(settings)
    if failed:
        raise FoveateError("\n".join([text, f"{len(failed)} runs failed and have no row:", *failed]))
    return text


def check_methods(settings: Settings) -> list[str]:
    """The methods in full. Raises InputError for an unknown one, a peer without adapter and a number out of range."""
    from foveate.engine.clock import CLOCKS
    from foveate.methods import METHODS, PRETRAINING

    # Pre-training leaves nothing to score, and there are no boxes here to learn from.
    known = [name for name, method in METHODS.items() if method.learns_labels and not method.learns_boxes]
    named = known if list(settings.methods) == ["all"] else list(settings.methods)
    for name in named:
        method, more = split_variant(name)
        if method not in known:
            raise refuse("--methods", "method", name, f"all, or one of {', '.join(known)}", closest(method, known))
        for key, value in more.items():
            if "." in key and re.fullmatch(r"[A-Za-z0-9_.-]+", value):  # a run's name is also that of its files
                load_config(overrides=[f"{key}={value}"])
            elif key != PRETRAIN or value not in PRETRAINING:
                expected = f"{PRETRAIN}= and one of {', '.join(PRETRAINING)}, or SETTING=VALUE, after the +"
                fix = f"Write {variant(method, PRETRAIN, 'dbn')}, or {variant(method, 'optimiser.ema', '0.99')}."
                raise refuse("--methods", "method", name, expected, fix)
    for name, adapter in settings.peers.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise refuse("--peer", "name", name, "letters, digits and _", "Write --peer nnunet=ADAPTER.py.")
        if not adapter.is_file():
            raise refuse(adapter, "file", "nothing", "a peer's adapter", "Check the path given to --peer.")
    if settings.clock not in CLOCKS:
        raise refuse("--clock", "clock", settings.clock, " or ".join(CLOCKS), closest(settings.clock, CLOCKS))
    for option, number in (("--seeds", settings.seeds), ("--minutes", settings.minutes)):
        if not number > 0:
            raise refuse(option, "number", number, "more than 0", "Correct the number.")
    if not settings.labels or min(settings.labels) < 1:
        found = ", ".join(map(str, settings.labels)) or "none"
        raise refuse("--labels", "numbers", found, "at least one label each", "Correct the numbers.")
    return [*named, *(PEER + name for name in settings.peers)]


def _run(settings: Settings, left: Sequence[Run], rows: Sequence[Row], told: Callable[[str], object]) -> list[str]:
    """Work off the runs; what failed."""
    pools = read_pools(settings.data, settings.score, settings.without, settings.classes)
    draws = Draws(settings.data, pools.train.labelled, pools.classes, pools.shows)
    for seed in range(settings.seeds):  # all of them now: hours later is too late to learn that a class is missing
        for labels in settings.labels:
            draws.take(seed, labels)
    pools.refuse_unscored()
    without = settings.without.stem if settings.without else ""
    _check_rows(settings, rows, without, pools)
    shared = settings.shared
    work = (settings.work / settings.dataset / shared.scored / content(pools)).resolve()
    peers = {name: adapter.resolve() for name, adapter in settings.peers.items()}
    bench = Bench(
        settings.dataset, pools, draws, without, shared.threads, shared.device, shared.clock, peers, work, settings.plan
    )
    bench.build(min(settings.labels))
    plans = {row["plan"] for row in shared.rows(rows) if not row["method"].startswith(PEER)} - {bench.plan_line}
    if plans:
        warnings.warn(
            f"{settings.file}: rows of other runs were trained by another plan ({'; '.join(sorted(plans))}) than the "
            f"one in {bench.plan} ({bench.plan_line}).",
            stacklevel=2,
        )
    return work_off(left, settings.file, bench.execute, told)


def _check_rows(settings: Settings, rows: Sequence[Row], without: str, pools: Pools) -> None:
    """Rows of this list must have been scored on these cases and had as many to train on; all have these classes.

    Raises InputError where they do not.
    """
    scored = {case.id for case in pools.scored.cases}
    for row in rows:
        if odd := sorted(scored ^ row[CASES].keys()):
            found = f"{len(odd)} cases that are not in both, such as {odd[0]}"
            fix = "Give the list another name, or name another --results folder."
            raise refuse(settings.score, "case ids", found, f"the cases of the rows in {settings.file}", fix)
        before, now = (row["without"], int(row["train_cases"])), (without, len(pools.train.cases))
        if before != now:
            expected, found = (f"{cases} cases, without {name or 'none'}" for name, cases in (before, now))
            fix = "Give --without as then, or name another --results folder."
            raise refuse(settings.file, "cases that may train", found, f"{expected}, as in its rows", fix)
    columns, names = read_columns(settings.file), list(pools.classes)
    there = [name.removeprefix("dice_") for name in columns if name.startswith("dice_")]
    if columns and names != there:
        expected = f"{', '.join(there) or 'none'}, as in the rows of {settings.file}"
        fix = "Give --classes as then, or name another --results folder."
        raise refuse("--classes", "names", ", ".join(names), expected, fix)


def _show(settings: Settings) -> str:
    """The table, in the docs too where asked for, with the plot beside the rows."""
    rows = settings.shared.read(settings.file)
    text = render(rows, settings.named)
    if rows:
        picture = settings.results / f"{settings.dataset}-{settings.shared.name}.png"
        write_plot(rows, picture)
        if settings.docs:
            page, section = settings.docs
            link = Path(os.path.relpath(picture.resolve(), page.resolve().parent)).as_posix()
            write_section(section, f"{text}\n\n![Dice by method and number of labels]({link})", page)
    elif settings.docs:
        write_section(settings.docs[1], text, settings.docs[0])
    return text


def parse_classes(text: str) -> Classes:
    """Classes from ``name=value,name=value``. Raises InputError."""
    classes: dict[str, int | tuple[int, ...]] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        number = class_value(int(value)) if value.strip().isdigit() else None
        if not equals or not name.strip() or not isinstance(number, int) or not number:
            raise refuse("--classes", "text", repr(part), "name=value, with values from 1 to 254", "Correct it.")
        classes[name.strip()] = number
    return classes


def parse_peers(texts: Sequence[str]) -> dict[str, Path]:
    """Adapters by name from ``name=path``. Raises InputError."""
    peers = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals:
            raise refuse("--peer", "text", text, "name=path", "Write --peer nnunet=ADAPTER.py.")
        peers[name] = Path(path)
    return peers
