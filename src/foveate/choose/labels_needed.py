"""``foveate labels-needed``: reads what runs have scored and says how many more labels reach a wanted Dice."""

from __future__ import annotations

import json
import math
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from foveate.bench.rows import ALL, read_lines, run_name
from foveate.choose.learning_curve import FEWEST, Needed, Point, labels_to_reach
from foveate.engine.provenance import FREE_ON_RESUME
from foveate.errors import refuse

EVALUATION = "evaluation.json"
FAR = 1000  # times the largest number of labels: nobody labels so many
COLUMNS = ("dataset", "scored", "without", "method", "labels", "train_cases", "dice")


def labels_needed(runs: Iterable[str | Path], dice: float = 0.9) -> dict[str, str]:
    """For each learning curve that the runs hold: how many more labels reach the mean Dice ``dice``, in words.

    runs: run folders that hold evaluation.json, as ``foveate evaluate --json`` writes it, and CSV files of ``foveate
    bench``, in which a run counts once. Runs share a curve when nothing but seed and labels tells them apart: in tables
    the columns that name a run, of folders the configuration, classes and test cases: a dataset may grow meanwhile.
    Raises InputError for what cannot be read, and for a Dice that is not between 0 and 1.
    """
    if not 0 < dice < 1:
        raise refuse("labels-needed", "dice", dice, "more than 0 and less than 1", "Give for instance --dice 0.9.")
    points = [
        point
        for path in dict.fromkeys(map(Path, runs))
        for point in (read_csv(path) if path.is_file() else [read_run(path)])
    ]
    curves = defaultdict(list)
    for point in points:
        curves[point.curve].append(point)
    return {name: describe(curve, dice) for name, curve in curves.items()}


def read_csv(path: Path) -> list[Point]:
    """A point for each run. Raises InputError naming the column or row that is not as it should be."""
    points: dict[tuple[str, str], Point] = {}
    for place, row in read_lines(path, COLUMNS):
        bound = _bound(f"{float(row['minutes']):g}", row["clock"])
        name = f"{row['dataset']}, {row['method']}, {bound} on {row['device']} with {row['threads']} threads"
        name += f", scored on {row['scored']}"
        name += f", without {row['without']}" if row["without"] else ""
        labels = row["train_cases"] if row["labels"] == ALL else row["labels"]
        points.setdefault((name, run_name(row)), _point(path, place, labels, row["dice"], name))
    if not points:
        raise refuse(path, "rows", "none", "one for each run", "Give a table that foveate bench has written.")
    return [*points.values()]


def read_run(folder: Path) -> Point:
    """The point of a run folder: labels that its data had, and the mean Dice of its evaluation."""
    fix = f"Write it with foveate evaluate PREDICTIONS LABELS --json {folder / EVALUATION}."
    scores = _json(folder / EVALUATION, "the scores of the run", fix)
    run = _json(folder / "provenance.json", "the record of a run", "Give the folder of a run that has ended.")
    labels = sum(parts.get("label") is not None for parts in run.get("data", {}).values())
    config = run.get("config", {})
    steps = config.get("steps")
    bound = f"{steps} steps" if steps else _bound(config.get("minutes"), config.get("clock", "wall"))
    tested = sorted(str(case.get("case")) for case in scores.get("cases", []))
    alike = {key: value for key, value in config.items() if key not in FREE_ON_RESUME | {"seed"}}
    same = [tested, alike, run.get("init"), run.get("plan", {}).get("classes")]
    digest = zlib.crc32(json.dumps(same, sort_keys=True).encode())  # runs that differ in more are of another curve
    name = f"{config.get('method', {}).get('name')}, {bound}, {len(tested)} test cases ({digest:08x})"
    return _point(folder / EVALUATION, "dice", labels, scores.get("dice"), name)


def _bound(minutes: Any, clock: str) -> str:
    return f"{minutes} min" if clock == "wall" else f"{minutes} {clock} min"


def describe(points: list[Point], dice: float) -> str:
    """The answer for one curve in a few honest sentences."""
    counts = sorted({point.labels for point in points})
    runs = f"{len(points)} run{'s' * (len(points) > 1)} with {', '.join(map(str, counts))} labels"
    if len(counts) < FEWEST:
        wanted = f"at least {FEWEST} different numbers of labels"
        return f"{runs}: too few to tell. A curve needs runs of one method, trained and tested alike, with {wanted}."
    needed = labels_to_reach(points, dice)
    curve, most = needed.curve, counts[-1]
    text = f"{runs}; fitted: {curve.a:.3f} - {curve.b:.3g} n^-{curve.c:.2f}. "
    if needed.labels <= most:
        text += f"Dice {dice:g} is reached at about {math.ceil(needed.labels)} labels, which some runs have."
    elif needed.labels < FAR * most:
        more = math.ceil(needed.labels) - most
        text += f"Dice {dice:g} takes about {math.ceil(needed.labels)} labels, {more} more than {most}."
    elif curve.b == 0:
        text += f"More labels did not help in these runs, so Dice {dice:g} is out of reach by labels alone."
    elif math.isinf(needed.labels):
        text += f"The curve levels off at {curve.a:.3f}: Dice {dice:g} is out of reach by labels alone."
    else:
        text += f"Dice {dice:g} takes more than {FAR * most} labels: out of reach in practice."
    return f"{text} {_interval(needed, most)}"


def _interval(needed: Needed, most: int) -> str:
    if needed.low is None or needed.high is None:
        return "No interval: there are no more runs than the curve has parameters, so this is a guess."
    if math.isinf(needed.low):
        return "The whole 95% interval is out of reach."
    low = max(math.floor(needed.low), 1)
    return f"95% interval: {_shown(low, most)} to {_shown(needed.high, most)} labels."


def _shown(labels: float, most: int) -> str:
    return str(math.ceil(labels)) if labels < FAR * most else f"more than {FAR * most}"


def _point(path: Path, field: str, labels: Any, dice: Any, curve: str) -> Point:
    try:
        point = Point(int(labels), float(dice), curve)
    except (TypeError, ValueError):
        point = Point(0, math.nan, curve)
    if point.labels < 1 or not 0 <= point.dice <= 1:
        expected = "at least one label and a Dice from 0 to 1"
        raise refuse(path, field, f"labels {labels}, dice {dice}", expected, "Correct or remove this run.")
    return point


def _json(path: Path, expected: str, fix: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise refuse(path, "file", error.strerror, expected, fix) from None
    except (ValueError, TypeError) as error:
        raise refuse(path, "JSON", error, expected, fix) from None
