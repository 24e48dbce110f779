"""The table of a label-efficiency benchmark: means, intervals over patients, differences, share of the gap closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foveate.bench.page import markdown_table
from foveate.bench.rows import ALL, CASES, Row, budget, read_rows
from foveate.metrics.bootstrap import Estimate, class_mean, draw_weights, interval

Group = dict[int, Row]
"""The rows of one configuration by seed."""

Key = tuple[str, str]
"""(labels, method)"""

BASELINE = "supervised"
NAN = float("nan")
TEXTS = ("dataset", "without", "train_cases", "plan", "machine", "commit", "date")
NUMBERS = ("dice", "dice_*", "hd95_*", "nsd", "steps", "seconds", "cpu_seconds", "peak_rss_mb")


@dataclass(frozen=True)
class Setting:
    """What all rows of a table have in common.

    scored: name of the list. device, clock: as told to ``foveate train``.
    """

    scored: str
    minutes: float
    threads: int
    device: str
    clock: str = "wall"

    @property
    def name(self) -> str:
        return f"{self.scored}-{budget(self.minutes, self.clock)}-{self.threads}t-{self.device}"

    @property
    def options(self) -> str:
        """What a command is told of it beside the bound and the list."""
        parts = [f"--threads {self.threads}", f"--device {self.device}", f"--clock {self.clock}"]
        return " ".join(part for part in parts if part not in ("--device cpu", "--clock wall"))

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of this setting."""
        return [row for row in rows if setting_of(row) == self]

    def read(self, path: Path) -> list[Row]:
        """The rows of this setting in a file, in which a table finds its columns. Raises InputError."""
        return read_rows(path, lambda row: setting_of(row) == self, TEXTS, NUMBERS)


def setting_of(row: Row) -> Setting:
    return Setting(row["scored"], float(row["minutes"]), int(row["threads"]), row["device"], row["clock"])


def group_rows(rows: Sequence[Row]) -> dict[Key, Group]:
    """Rows by (labels, method), then seed: few labels first, the ceiling last, the baseline first among methods."""
    groups: dict[Key, Group] = {}
    for row in rows:
        groups.setdefault((row["labels"], row["method"]), {})[int(row["seed"])] = row

    def rank(key: Key) -> tuple[float, bool]:
        labels, method = key
        return float("inf") if labels == ALL else int(labels), method != BASELINE

    return {key: groups[key] for key in sorted(groups, key=rank)}


def mean_dice(group: Group) -> Estimate:
    """Dice as the mean of the classes' means over cases and seeds."""
    patients, values = case_values(group, sorted(group))
    return Estimate(_score(values), *_interval(patients, over_seeds(values, draw_weights(patients))))


def paired(group: Group, baseline: Group) -> Estimate:
    """Difference in Dice to the baseline: the same seeds, the same cases, the same resamples."""
    (ours, theirs), patients = _alike(group, baseline)
    if not patients:
        return Estimate(NAN, NAN, NAN)
    weights = draw_weights(patients)
    draws = over_seeds(ours, weights) - over_seeds(theirs, weights)
    return Estimate(_score(ours) - _score(theirs), *_interval(patients, draws))


def gap_share(group: Group, baseline: Group, ceiling: Group) -> Estimate:
    """Share of the way from baseline to ceiling: 0 at the baseline, 1 at the ceiling, negative below the baseline.

    nan where the ceiling is not above the baseline: there is no gap to close. No interval where the resamples leave
    that open (where the ceiling is not above the baseline in 2.5% of them), because the ratio then has none.
    """
    (ours, low, high), patients = _alike(group, baseline, ceiling)
    if not patients or not _score(high) > _score(low):
        return Estimate(NAN, NAN, NAN)
    share = (_score(ours) - _score(low)) / (_score(high) - _score(low))
    weights = draw_weights(patients)
    score, bottom, top = (over_seeds(values, weights) for values in (ours, low, high))
    open_ = top > bottom
    if open_.mean() <= 0.975:
        return Estimate(share, NAN, NAN)
    return Estimate(share, *_interval(patients, (score - bottom)[open_] / (top - bottom)[open_]))


def case_values(group: Group, seeds: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """Patient of each case, in order of the case ids, and the Dice of each seed, ``[seeds, cases, classes]``.

    Raises ValueError when the seeds were scored on different cases.
    """
    cases = [group[seed][CASES] for seed in seeds]
    ids = sorted(cases[0])
    if any(sorted(other) != ids for other in cases):
        raise ValueError("the seeds of a configuration were scored on different cases")
    values = [[found[case]["dice"] for case in ids] for found in cases]
    return [cases[0][case]["patient"] for case in ids], np.array(values, dtype=float)


def _alike(*groups: Group) -> tuple[list[np.ndarray], list[str]]:
    """Values of each group over the seeds that all have, and the patients; nobody where they share no seed."""
    seeds = sorted(set.intersection(*(set(group) for group in groups)))
    if not seeds:
        return [np.zeros((0, 0, 1))] * len(groups), []
    if any(group[seeds[0]][CASES].keys() != groups[0][seeds[0]][CASES].keys() for group in groups):
        raise ValueError("two configurations were scored on different cases")
    found = [case_values(group, seeds) for group in groups]
    return [values for _, values in found], found[0][0]


def _score(values: np.ndarray) -> float:
    return float(over_seeds(values)[0])


def over_seeds(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """``class_mean`` of each seed, averaged over seeds: a structure that is in no label but in one seed's prediction
    counts in that seed. values: ``[seeds, cases, classes]``."""
    return np.mean([class_mean(each, weights) for each in values], axis=0)


def _interval(patients: Sequence[str], draws: np.ndarray) -> tuple[float, float]:
    return interval(draws) if len(set(patients)) > 1 else (NAN, NAN)


def render(rows: Sequence[Row], more: str = "") -> str:
    """The Markdown of the rows of one setting: table, how to read it, and what the runs were made with.

    more: options of the command that no row tells.
    """
    if not rows:
        return "Not measured yet."
    groups = group_rows(rows)
    classes = [key.removeprefix("dice_") for key in rows[0] if key.startswith("dice_")]
    distance = next(key for key in rows[0] if key.startswith("hd95_"))
    unit = distance.removeprefix("hd95_")
    header = ["labels", "method", "seeds", "Dice (95%)", "lowest to highest seed"]
    header += classes if len(classes) > 1 else []
    header += ["difference to supervised (95%)", "gap closed (95%)", f"HD95 {unit}", f"NSD 1 {unit}"]
    header += ["steps", "training min", "peak MiB"]
    lines = [_line(key, groups, classes, distance) for key in groups]
    return "\n\n".join([markdown_table(header, lines), _reading(rows), origin(rows, command(rows, more))])


def _share_cell(share: Estimate) -> str:
    """A method that lost more than the gap is wide is told by its difference; thousands of per cent tell nothing."""
    return "below -100%" if share.high < -1 else cell(share, ".0%")


def _line(key: Key, groups: dict[Key, Group], classes: Sequence[str], distance: str) -> list[str]:
    (labels, method), group = key, groups[key]
    baseline, ceiling = groups.get((labels, BASELINE)), groups.get((ALL, BASELINE))
    dice, scores = mean_dice(group), [float(row["dice"]) for row in group.values()]
    difference = share = "-"
    if baseline and method != BASELINE:
        difference = cell(paired(group, baseline), "+.4f")
        share = _share_cell(gap_share(group, baseline, ceiling)) if ceiling and labels != ALL else "-"
    elif ceiling and labels != ALL:
        share = f"of {cell(paired(ceiling, group), '+.4f')}"
    cells = [f"all {_train_cases(group)}" if labels == ALL else labels, method, str(len(group))]
    cells += [cell(dice, ".4f", ".3f"), f"{min(scores):.4f} to {max(scores):.4f}"]
    cells += [f"{mean(group, f'dice_{name}'):.4f}" for name in classes] if len(classes) > 1 else []
    cells += [difference, share, f"{mean(group, distance):.2f}", f"{mean(group, 'nsd'):.3f}"]
    cells += [f"{mean(group, 'steps'):.0f}", f"{training_minutes(group):.1f}"]
    return [*cells, f"{max(float(row['peak_rss_mb']) for row in group.values()):.0f}"]


def _train_cases(group: Group) -> str:
    """How many cases could train."""
    return "; ".join(sorted({row["train_cases"] for row in group.values()}))


def mean(group: Group, column: str) -> float:
    """Of a column over the seeds."""
    return float(np.mean([float(row[column]) for row in group.values()]))


def training_minutes(group: Group) -> float:
    """What the trainings took, by the clock that bounded them; the mean over seeds."""
    clock, threads = group[min(group)]["clock"], float(group[min(group)]["threads"])
    return (mean(group, "seconds") if clock == "wall" else mean(group, "cpu_seconds") / threads) / 60


def cell(estimate: Estimate, form: str, ends: str | None = None) -> str:
    """The estimate as text, its interval behind it, whose ends may have a format of their own."""
    if not np.isfinite(estimate.value):
        return "-"
    text = format(estimate.value, form)
    if not np.isfinite(estimate.low):
        return text
    return f"{text} ({format(estimate.low, ends or form)} to {format(estimate.high, ends or form)})"


def _reading(rows: Sequence[Row]) -> str:
    cases, patients = rows[0][CASES], {case["patient"] for case in rows[0][CASES].values()}
    busy = [float(row["cpu_seconds"]) / float(row["seconds"]) for row in rows]
    who = f"{len(cases)} cases" + (f" of {len(patients)} patients" if len(patients) < len(cases) else "")
    return (
        f"{who} are scored. Intervals: bootstrap over patients of the mean over seeds; differences are paired by case "
        "and seed, to the supervised method with as many labels. Intervals hold the spread between cases, not that "
        "between seeds and draws of labels, which stands in its own column. The share of the gap is (method - "
        "supervised) / (all labels - supervised), over the seeds that all three have; the gap itself stands in the "
        "line of the supervised method. Minutes and peak memory are those of the training command, the pages of its "
        "memory-mapped cache included. "
        f"Training had {min(busy):.1f} to {max(busy):.1f} cores' worth of processor time."
    )


def origin(rows: Sequence[Row], command: str) -> str:
    """The command that makes these rows, and what they were made with."""

    def listed(column: str) -> str:
        return "; ".join(sorted({str(row[column]) for row in rows}))

    parts = [f"`{command}`", f"plan: {listed('plan')}", listed("machine"), f"commit {listed('commit')}"]
    return " · ".join([*parts, listed("date")])


def command(rows: Sequence[Row], more: str = "") -> str:
    """The command that makes these rows, given the folder of the dataset and the list by their names.

    more: options that no row tells.
    """
    setting, ceiling = setting_of(rows[0]), any(row["labels"] == ALL for row in rows)
    few = [row for row in rows if row["labels"] != ALL]
    parts = [f"foveate bench label-efficiency {rows[0]['dataset']}"]
    methods = list(dict.fromkeys(row["method"] for row in few))
    parts.append(f"--methods {','.join(name for name in methods if not name.startswith('peer:')) or BASELINE}")
    parts += [f"--peer {name[5:]}={name[5:]}.py" for name in methods if name.startswith("peer:")]
    parts.append(f"--labels {','.join(map(str, sorted({int(row['labels']) for row in few})))}" if few else "")
    parts.append(f"--seeds {max(int(row['seed']) for row in rows) + 1} --minutes {setting.minutes:g}")
    parts.append(f"--score {setting.scored}.txt")
    parts.append(f"--without {rows[0]['without']}.txt" if rows[0]["without"] else "")
    parts.append("--ceiling" if ceiling else "")
    parts += [setting.options, more]
    return " ".join(part for part in parts if part)
