"""``foveate bench``: one command per benchmark. Parses and calls; heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Benchmarks that anybody can repeat.")


@app.callback()
def _group() -> None:
    """Benchmarks that anybody can repeat."""  # with a callback, a single command keeps its name


@app.command("label-efficiency")
def label_efficiency(
    data: Annotated[Path, typer.Argument(help="Dataset folder in which the cases have labels.", metavar="DATA")],
    score: Annotated[
        Path, typer.Option(help="File with the case ids that are scored, and never trained on.", metavar="FILE")
    ],
    methods: Annotated[str, typer.Option(help="Separated by commas; or all.")] = "supervised,mean_teacher",
    labels: Annotated[str, typer.Option(help="Numbers of labelled cases, separated by commas.")] = "4,8,16",
    seeds: Annotated[int, typer.Option(help="Seed s trains on draw s of the labels.")] = 3,
    minutes: Annotated[float, typer.Option(help="Of each training, everything in it included.")] = 15.0,
    without: Annotated[Path | None, typer.Option(help="File with case ids that are left out.", metavar="FILE")] = None,
    ceiling: Annotated[bool, typer.Option("--ceiling", help="Also supervised, with every label.")] = False,
    peer: Annotated[
        list[str] | None, typer.Option(help="Another project's adapter; may be repeated.", metavar="NAME=FILE")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each training; by default, as there are cores.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, gpu, gpu:0 or mps.")] = "cpu",
    classes: Annotated[
        str | None, typer.Option(help="Names, where no dataset.json gives them.", metavar="NAME=VALUE,...")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder for rows and plots.", metavar="FOLDER")] = Path("bench/results"),
    work: Annotated[Path, typer.Option(help="Folder for what the runs leave.", metavar="FOLDER")] = Path("bench/work"),
    docs: Annotated[Path | None, typer.Option(help="Page to write the table into.", metavar="FILE")] = None,
    section: Annotated[str | None, typer.Option(help="Of that page; by default, the dataset's name.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs that are still to do.")] = False,
    only_table: Annotated[
        bool, typer.Option("--only-table", help="Table and plot of the rows that are there.")
    ] = False,
) -> None:
    """Dice by number of labels, for each method with the same network, data, draws and time.

    Goes on where it stopped: rows that are in the results are not run again.
    """
    from foveate.bench import label_efficiency as bench

    settings = bench.Settings(
        data=data,
        score=score,
        methods=[part.strip() for part in methods.split(",")],
        labels=_numbers("--labels", labels),
        seeds=seeds,
        minutes=minutes,
        without=without,
        ceiling=ceiling,
        peers=bench.parse_peers(peer or ()),
        threads=threads,
        device=device,
        classes=bench.parse_classes(classes) if classes else None,
        results=results,
        work=work,
        docs=(docs, section or data.resolve().name.replace("_", "-")) if docs else None,
        dry_run=dry_run,
        only_table=only_table,
    )
    typer.echo(bench.label_efficiency(settings, typer.echo))


@app.command("attention")
def attention(
    blocks: Annotated[str, typer.Option(help="Separated by commas; or all.")] = "all",
    cubes: Annotated[str, typer.Option(help="Sides of 3D images, separated by commas.")] = "8,12,16,24,32",
    squares: Annotated[str, typer.Option(help="Sides of 2D images, separated by commas.")] = "16,32,64,128",
    channels: Annotated[int, typer.Option(help="Of the image.")] = 32,
    bound: Annotated[float, typer.Option(help="Seconds of a step, above which a size is left out.")] = 10.0,
    threads: Annotated[int | None, typer.Option(min=1, help="By default, as there are cores.")] = None,
    device: Annotated[str, typer.Option(help="cpu, gpu or gpu:0.")] = "cpu",
    results: Annotated[Path, typer.Option(help="Folder for numbers and plots.", metavar="FOLDER")] = Path(
        "bench/results"
    ),
    docs: Annotated[Path | None, typer.Option(help="Page to write the tables into.", metavar="FILE")] = None,
    section: Annotated[str, typer.Option(help="Of that page.")] = "attention-cost",
) -> None:
    """Seconds and memory of every attention block by number of voxels, beside a convolution and full attention."""
    from foveate.bench import attention as bench

    settings = bench.Settings(
        blocks=[part.strip() for part in blocks.split(",")],
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


def _numbers(option: str, text: str) -> list[int]:
    """Whole numbers separated by commas. Raises InputError."""
    from foveate.errors import refuse

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise refuse(
            option, "numbers", text, "whole numbers separated by commas", f"Write for instance {option} 4,8,16."
        )
    return [int(part) for part in parts]
