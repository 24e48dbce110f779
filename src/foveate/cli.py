"""The command line: one command per verb. Parses and calls; heavy imports wait until a command runs."""

from __future__ import annotations

import contextlib
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from foveate import __version__
from foveate.bench.commands import app as bench_app
from foveate.errors import FoveateError, refuse
from foveate.terminal import Terminal
from foveate.text import printable

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train medical-image models from few labelled and many unlabelled scans. Not a medical device.",
)
app.add_typer(bench_app, name="bench")
_verbose = False
DEMOS = {
    "segmentation": "foveate.demo",
    "classification": "foveate.demo_classification",
    "detection": "foveate.demo_detection",
}

Data = Annotated[
    Path,
    typer.Argument(
        help="Dataset folder: nnU-Net raw, MSD, images/ + labels/, class folders, "
        "images/ + labels.csv or boxes, or DICOM studies.",
        metavar="DATA",
    ),
]
Labelled = Annotated[
    Path | None,
    typer.Option(help="File with one case id a line: only these cases' labels are opened.", metavar="FILE"),
]
Task = Annotated[
    str | None,
    typer.Option(help="segmentation, classification, regression or detection; by default what the layout says."),
]
Device = Annotated[str | None, typer.Option(help="cpu, gpu, gpu:0 or mps; by default the best there is.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"foveate {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show where an error came from.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    global _verbose
    _verbose = verbose


@app.command()
def check(data: Data, labelled: Labelled = None, task: Task = None) -> None:
    """Recognise a dataset, list every problem and show the cohort. Exit code 0 only when it can be trained on."""
    from foveate.cohort.check import check as check_data
    from foveate.cohort.show import render

    with _bar("scans checked") as progress:
        report = check_data(data, labelled=labelled, progress=progress, task=task)
    render(report, Terminal())
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def train(
    data: Data,
    run: Annotated[Path, typer.Argument(help="Folder for the model and its records: absent or empty.", metavar="RUN")],
    labelled: Labelled = None,
    minutes: Annotated[float | None, typer.Option(help="Time for the whole command; 60 if neither is given.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps, in place of --minutes.")] = None,
    task: Task = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="supervised (default), adversarial, adversarial_constraint, copy_paste, cross_consistency, "
            "cross_pseudo, cross_teaching, dual_task, entropy_minimisation, fixmatch, interpolation_consistency, "
            "mean_teacher (default where few of many images have a label or a class), mutual_consistency, pi_model, "
            "pyramid_consistency, self_training, temporal_ensembling, uncertainty_mean_teacher, unimatch; "
            "masked_autoencoder and deep_belief pre-train."
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="unet (default), attention_unet, dual_attention, fusion_unet, hybrid, ms_can, spp_attention or "
            "window_unet; classifier (default) or attention_cnn for whole images, detector for boxes."
        ),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Run whose weights training starts from, with its plan.", metavar="RUN")
    ] = None,
    pretrain: Annotated[
        str | None,
        typer.Option(help="Pre-train first, on all scans, for a share of the bound: dbn, masked_autoencoder."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, split, sampling and augmentation.")] = None,
    device: Device = None,
    config: Annotated[Path | None, typer.Option(help="YAML file, such as a run's config.yaml.", metavar="FILE")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One key of the configuration; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in RUN; start it if there is none.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train a model and leave it in RUN, with its configuration, log, checkpoints and report."""
    from foveate.engine.train import train as train_model

    folder = train_model(
        data,
        run,
        labelled=labelled,
        minutes=minutes,
        steps=steps,
        task=task,
        method=method,
        network=network,
        init=init,
        pretrain=pretrain,
        seed=seed,
        device=device,
        config=config,
        set=set_ or (),
        resume=resume,
        quiet=quiet,
    )
    if not quiet:
        typer.echo(f"Model: {folder / 'model'}\nReport: {folder / 'report.html'}")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder, or the model folder in it.", metavar="RUN")],
    input_: Annotated[Path, typer.Argument(help="An image or a folder of images or DICOM series.", metavar="INPUT")],
    out: Annotated[Path, typer.Argument(help="File or folder for the predictions.", metavar="OUT")],
    device: Device = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Average over mirrored images: slower.")] = False,
    views: Annotated[int, typer.Option(help="Average over so many turned and zoomed views: slower.", min=0)] = 0,
    all_pieces: Annotated[
        bool,
        typer.Option("--all-pieces", help="Also what lies apart from a structure that the labels show in one piece."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave masks that are there already, and segment the other images.")
    ] = False,
) -> None:
    """Segment images, each on its own grid, as uint8 NIfTI (PNG); or answer for them in predictions.csv."""
    from foveate.predict.files import predict_files

    notes: list[str] = []
    try:
        with _bar("scans predicted") as progress:
            paths = predict_files(
                run,
                input_,
                out,
                device=device or "auto",
                mirror=mirror,
                views=views,
                all_pieces=all_pieces,
                overwrite=overwrite,
                resume=resume,
                progress=progress,
                note=notes.append,
            )
        for path in paths:
            typer.echo(printable(str(path)))
    finally:  # where some cases could not be read, too
        for line in notes:
            typer.echo(printable(line), err=True)


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="Run folder, or the model folder in it.", metavar="RUN")],
    input_: Annotated[Path, typer.Argument(help="An image or a folder of images or DICOM series.", metavar="INPUT")],
    out: Annotated[Path, typer.Argument(help="Folder for maps and pictures: absent or empty.", metavar="OUT")],
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Of Grad-CAM; may be repeated. By default bottleneck and last decoder stage but one."),
    ] = None,
    of: Annotated[
        str | None, typer.Option(help="Class to locate, of models of whole images; by default the likeliest.")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Masks of some of the images: the threshold of what is located is chosen on them."),
    ] = None,
    device: Device = None,
) -> None:
    """Evidence, attention maps and Grad-CAM on each image's own grid, each tested with random weights.

    Of models that segment or answer for whole images; detectors are not explained.
    """
    from foveate.explanations.explain import explain as explain_scans

    with _bar("scans explained") as progress:
        found = explain_scans(
            run, input_, out, layers=layer or (), of=of, masks=masks, device=device or "auto", progress=progress
        )
    for line in (*found.pictures, *found.notes):
        typer.echo(printable(str(line)))


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder that `foveate predict` wrote.", metavar="PREDICTIONS")],
    labels: Annotated[Path, typer.Argument(help="Dataset folder, or a folder of label maps.", metavar="LABELS")],
    json: Annotated[Path | None, typer.Option(help="Write every number to this file.", metavar="FILE")] = None,
    tolerance_mm: Annotated[
        float | None, typer.Option(help="Of the normalised surface Dice of label maps; 1 by default.")
    ] = None,
    cases: Annotated[
        Path | None, typer.Option(help="File with one case id a line: only these are scored.", metavar="FILE")
    ] = None,
) -> None:
    """Score predictions of any task, with 95% intervals over patients; worst cases first.

    Label maps: Dice, HD95, surface distance (mm) and surface Dice. Classes: accuracy, F1, AUROC, calibration and more,
    with a reliability plot beside the JSON. Values: errors and the coverage of their intervals.
    """
    from foveate.metrics.dispatch import evaluate as score
    from foveate.metrics.evaluation import writable

    target = writable(json)
    evaluation = score(predictions, labels, tolerance_mm=tolerance_mm, cases=cases)
    evaluation.render(Terminal())
    if target is not None:  # last: should the disk be full by now, the numbers have been shown
        evaluation.write(target)


@app.command("labels-needed")
def labels_needed(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders of one method, each with RUN/evaluation.json (evaluate --json), or tables of a bench.",
            metavar="RUN...",
        ),
    ],
    dice: Annotated[float, typer.Option(help="Wanted mean Dice.")] = 0.9,
) -> None:
    """Fit the learning curve of the runs at hand; say how many more labels reach a Dice, or that none do."""
    from foveate.choose.labels_needed import labels_needed as answers

    for curve, answer in answers(runs, dice).items():
        typer.echo(printable(f"{curve}\n  {answer}"))


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder for what the demo makes.", metavar="OUT")] = Path("demo"),
    minutes: Annotated[float | None, typer.Option(help="Training time per method.")] = None,
    task: Annotated[str, typer.Option(help="segmentation, classification or detection.")] = "segmentation",
) -> None:
    """Train on scans simulated on real anatomy, offline, and compare two methods: about five minutes."""
    if task not in DEMOS:
        raise refuse("command line", "task", task, f"one of {', '.join(DEMOS)}", "Choose one of these.")
    import_module(DEMOS[task]).run_demo(out, minutes)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command ``foveate``: an error that a person can act on comes without a traceback."""
    warnings.showwarning = _show_warning
    try:
        app(arguments)
    except FoveateError as error:
        if _verbose:
            traceback.print_exc()
        _stderr().print(str(error), style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)
    except OSError as error:
        if _verbose or error.filename is None:  # no file: not what the person at the keyboard can mend
            raise
        text = f"{error.filename}: {error.strerror}. See that it is there and that you may use it."
        _stderr().print(text, style="red", markup=False, highlight=False)
        sys.exit(1)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _stderr().print(f"warning: {message}", style="yellow", markup=False, highlight=False)


@contextlib.contextmanager
def _bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that is told (done, in all) and is gone afterwards; none where there is no terminal."""
    from rich.progress import Progress

    console = _stderr()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _stderr() -> Console:
    return Terminal(stderr=True, soft_wrap=True)


if __name__ == "__main__":
    main()
