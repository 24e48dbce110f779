"""``foveate bench``: one command per benchmark. Parses and calls; heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Benchmarks that anybody can repeat.")

Data = Annotated[Path, typer.Argument(help="Dataset folder in which the cases have labels.", metavar="DATA")]
Score = Annotated[
    Path, typer.Option(help="File with the case ids that are scored, and never trained on.", metavar="FILE")
]
Seeds = Annotated[int, typer.Option(help="Seed s trains on draw s of the labels.")]
Minutes = Annotated[float, typer.Option(help="Of each training, everything in it included.")]
Without = Annotated[Path | None, typer.Option(help="File with case ids that are left out.", metavar="FILE")]
Threads = Annotated[int | None, typer.Option(min=1, help="By default, as there are cores.")]
Device = Annotated[str, typer.Option(help="cpu, gpu, gpu:0 or mps.")]
Clock = Annotated[
    str, typer.Option(help="What minutes count: wall, or processor, which other work on the machine does not disturb.")
]
Classes = Annotated[str | None, typer.Option(help="Names, where no dataset.json gives them.", metavar="NAME=VALUE,...")]
Results = Annotated[Path, typer.Option(help="Folder for numbers and plots.", metavar="FOLDER")]
Work = Annotated[Path, typer.Option(help="Folder for what the runs leave.", metavar="FOLDER")]
Docs = Annotated[
    Path | None,
    typer.Option(
        help="Page to write the table into, between its lines <!-- begin SECTION --> and <!-- end SECTION -->.",
        metavar="FILE",
    ),
]
Section = Annotated[str | None, typer.Option(help="Of that page; by default, named after the dataset.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the runs that are still to do.")]
OnlyTable = Annotated[bool, typer.Option("--only-table", help="Table and plot of the rows that are there.")]


@app.callback()
def _group() -> None:
    """Benchmarks that anybody can repeat."""  # with a callback, a single command keeps its name


@app.command("label-efficiency")
def label_efficiency(
    data: Data,
    score: Score,
    methods: Annotated[str, typer.Option(help="Separated by commas; or all.")] = "supervised,mean_teacher",
    labels: Annotated[str, typer.Option(help="Numbers of labelled cases, separated by commas.")] = "4,8,16",
    seeds: Seeds = 3,
    minutes: Minutes = 15.0,
    without: Without = None,
    ceiling: Annotated[bool, typer.Option("--ceiling", help="Also supervised, with every label.")] = False,
    peer: Annotated[
        list[str] | None, typer.Option(help="Another project's adapter; may be repeated.", metavar="NAME=FILE")
    ] = None,
    threads: Threads = None,
    device: Device = "cpu",
    clock: Clock = "wall",
    classes: Classes = None,
    results: Results = Path("bench/results"),
    work: Work = Path("bench/work"),
    docs: Docs = None,
    section: Section = None,
    dry_run: DryRun = False,
    only_table: OnlyTable = False,
) -> None:
    """Dice by number of labels, for each method with the same network, data, draws and time.

    Goes on where it stopped: rows that are in the results are not run again.
    """
    from foveate.bench import label_efficiency as bench

    settings = bench.Settings(
        data=data,
        score=score,
        methods=_names(methods),
        labels=_numbers("--labels", labels),
        seeds=seeds,
        minutes=minutes,
        without=without,
        ceiling=ceiling,
        peers=bench.parse_peers(peer or ()),
        threads=threads,
        device=device,
        clock=clock,
        classes=bench.parse_classes(classes) if classes else None,
        results=results,
        work=work,
        docs=_place(docs, section, data),
        dry_run=dry_run,
        only_table=only_table,
    )
    typer.echo(bench.label_efficiency(settings, typer.echo))


@app.command("ablation")
def ablation(
    data: Data,
    score: Score,
    blocks: Annotated[str, typer.Option(help="Attention blocks, separated by commas; or all.")] = "all",
    methods: Annotated[str, typer.Option(help="Separated by commas.")] = "supervised",
    labels: Annotated[str, typer.Option(help="Numbers of labelled cases, separated by commas.")] = "8",
    convolutions: Annotated[
        bool, typer.Option(help="Also a convolution with as many parameters in the place of each block.")
    ] = True,
    seeds: Seeds = 1,
    minutes: Minutes = 5.0,
    without: Without = None,
    threads: Threads = None,
    device: Device = "cpu",
    clock: Clock = "wall",
    classes: Classes = None,
    results: Results = Path("bench/results"),
    work: Work = Path("bench/work"),
    docs: Docs = None,
    section: Section = None,
    dry_run: DryRun = False,
    only_table: OnlyTable = False,
) -> None:
    """Whether an attention block earns its place: against no block and against a convolution of as many parameters.

    Goes on where it stopped: rows that are in the results are not run again.
    """
    from foveate.bench import ablation as bench
    from foveate.bench.label_efficiency import parse_classes

    settings = bench.Ablation(
        data=data,
        score=score,
        blocks=_names(blocks),
        methods=_names(methods),
        labels=_numbers("--labels", labels),
        convolutions=convolutions,
        seeds=seeds,
        minutes=minutes,
        without=without,
        threads=threads,
        device=device,
        clock=clock,
        classes=parse_classes(classes) if classes else None,
        results=results,
        work=work,
        docs=_place(docs, section, data, "-ablation"),
        dry_run=dry_run,
        only_table=only_table,
    )
    typer.echo(bench.ablation(settings, typer.echo))


@app.command("attention")
def attention(
    blocks: Annotated[str, typer.Option(help="Separated by commas; or all.")] = "all",
    cubes: Annotated[str, typer.Option(help="Sides of 3D images, separated by commas.")] = "8,12,16,24,32",
    squares: Annotated[str, typer.Option(help="Sides of 2D images, separated by commas.")] = "16,32,64,128",
    channels: Annotated[int, typer.Option(help="Of the image.")] = 32,
    bound: Annotated[float, typer.Option(help="Seconds of a step, above which a size is left out.")] = 10.0,
    threads: Threads = None,
    device: Device = "cpu",
    results: Results = Path("bench/results"),
    docs: Docs = None,
    section: Annotated[str, typer.Option(help="Of that page.")] = "attention-cost",
) -> None:
    """Seconds and memory of every attention block by number of voxels, beside a convolution and full attention."""
    from foveate.bench import attention as bench

    settings = bench.Settings(
        blocks=_names(blocks),
        cubes=_numbers("--cubes", cubes),
        squares=_numbers("--squares", squares),
        channels=channels,
        bound=bound,
        threads=threads,
        device=device,
        results=results,
        docs=(docs, section) if docs else None,
    )
    typer.echo(bench.attention(settings, typer.echo))


@app.command("slots")
def slots(
    blocks: Annotated[str, typer.Option(help="Separated by commas; or all.")] = "all",
    patch: Annotated[str, typer.Option(help="Sides of an image, separated by commas.")] = "40,56,40",
    batch: Annotated[int, typer.Option(help="Images of a step.")] = 2,
    widths: Annotated[str, typer.Option(help="Channels of each stage, separated by commas.")] = "16,32,64,128",
    threads: Threads = None,
    device: Device = "cpu",
    docs: Docs = None,
    section: Annotated[str, typer.Option(help="Of that page.")] = "slot-cost",
) -> None:
    """Seconds and memory of every attention block where it usually sits in the U-Net, beside a convolution."""
    from foveate.bench import slots as bench

    settings = bench.Settings(
        blocks=_names(blocks),
        patch=_numbers("--patch", patch),
        batch=batch,
        widths=_numbers("--widths", widths),
        threads=threads,
        device=device,
        docs=(docs, section) if docs else None,
    )
    typer.echo(bench.slots(settings, typer.echo))


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _numbers(option: str, text: str) -> list[int]:
    """Whole numbers separated by commas. Raises InputError."""
    from foveate.errors import refuse

    parts = _names(text)
    if not all(part.isdigit() for part in parts):
        raise refuse(
            option, "numbers", text, "whole numbers separated by commas", f"Write for instance {option} 4,8,16."
        )
    return [int(part) for part in parts]


def _place(docs: Path | None, section: str | None, data: Path, ending: str = "") -> tuple[Path, str] | None:
    """The page and the name of its section."""
    return (docs, section or data.resolve().name.replace("_", "-") + ending) if docs else None
