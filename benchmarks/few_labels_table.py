"""The table of a few-label benchmark: means, intervals over cases, and how much of the gap to all labels is closed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common import markdown_table
from foveate.metrics.bootstrap import class_mean, draw_weights, interval
from rows import CASES

Row = dict[str, Any]
Group = dict[int, Row]
"""The rows of one configuration by seed."""


def gap_share(score: float, baseline: float, ceiling: float) -> float:
    """Share of the way from baseline to ceiling: 0 at the baseline, 1 at the ceiling, negative below the baseline.

    nan where the ceiling is not above the baseline: there is no gap to close.
    """
    return (score - baseline) / (ceiling - baseline) if ceiling > baseline else float("nan")


def case_values(group: Group, seeds: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """Case ids and their Dice averaged over seeds, ``[cases, classes]``. Raises ValueError when cases differ."""
    ids = sorted(group[seeds[0]][CASES])
    if any(sorted(group[seed][CASES]) != ids for seed in seeds):
        raise ValueError("the seeds of a configuration were scored on different cases")
    values = [[group[seed][CASES][case] for case in ids] for seed in seeds]
    return ids, np.array(values, dtype=float).mean(axis=0)


def paired(group: Group, baseline: Group) -> tuple[float, float, float]:
    """Mean difference to the baseline and its 95% interval: the same seeds, the same cases, the same resamples."""
    seeds = sorted(group.keys() & baseline.keys())
    if not seeds:
        return float("nan"), float("nan"), float("nan")
    ids, ours = case_values(group, seeds)
    other_ids, theirs = case_values(baseline, seeds)
    if ids != other_ids:
        raise ValueError("two configurations were scored on different cases")
    weights = draw_weights(ids)
    draws = class_mean(ours, weights) - class_mean(theirs, weights)
    return float((class_mean(ours) - class_mean(theirs))[0]), *interval(draws)


def group_rows(rows: Sequence[Row], labels: int, minutes: float) -> dict[tuple[str, int], Group]:
    """Rows by (method, labels), then seed: those with ``labels`` labels; last, supervised with more: the ceiling."""
    groups: dict[tuple[str, int], Group] = {}
    for row in rows:
        method, count = row["method"], int(row["labels"])
        ceiling = method == "supervised" and count > labels
        if float(row["minutes"]) == minutes and (count == labels or ceiling):
            groups.setdefault((method, count), {})[int(row["seed"])] = row
    return dict(sorted(groups.items(), key=lambda item: (item[0][1], item[0][0] != "supervised")))


def mean_of(group: Group, column: str) -> float:
    return float(np.mean([float(row[column]) for row in group.values()]))


def render(rows: Sequence[Row], classes: Sequence[str], labels: int, minutes: float) -> str:
    """The Markdown of the section: table, how to read it, and what the runs were made with."""
    groups = group_rows(rows, labels, minutes)
    if not groups:
        return "Not measured yet."
    baseline = groups.get(("supervised", labels), {})
    ceiling = next((group for (_, count), group in groups.items() if count > labels), {})
    header = ["method", "labels", "seeds", "Dice (95%)", "lowest to highest seed"]
    header += list(classes) if len(classes) > 1 else []
    header += [f"difference to supervised, {labels} labels (95%)", "gap closed", "HD95 mm", "NSD 1 mm"]
    header += ["steps", "training min", "peak MiB"]
    lines = [table_row(method, count, group, classes, baseline, ceiling) for (method, count), group in groups.items()]
    used = [row for group in groups.values() for row in group.values()]
    return "\n\n".join([markdown_table(header, lines), reading(used), provenance(used, labels, minutes)])


def table_row(
    method: str, count: int, group: Group, classes: Sequence[str], baseline: Group, ceiling: Group
) -> list[str]:
    seeds = sorted(group)
    ids, values = case_values(group, seeds)
    low, high = interval(class_mean(values, draw_weights(ids)))
    score = float(class_mean(values)[0])
    scores = [float(row["dice"]) for row in group.values()]
    difference = share = "-"
    if baseline and group is not baseline:
        middle, lower, upper = paired(group, baseline)
        difference = f"{middle:+.4f} ({lower:+.4f} to {upper:+.4f})" if np.isfinite(middle) else "-"
    if baseline and ceiling:
        common = sorted(group.keys() & baseline.keys() & ceiling.keys())
        if common:
            three = [float(class_mean(case_values(g, common)[1])[0]) for g in (group, baseline, ceiling)]
            share = percent(gap_share(*three))
    cells = [method, str(count), str(len(seeds)), f"{score:.4f} ({low:.3f} to {high:.3f})"]
    cells.append(f"{min(scores):.4f} to {max(scores):.4f}")
    cells += [f"{mean_of(group, f'dice_{name}'):.4f}" for name in classes] if len(classes) > 1 else []
    cells += [difference, share, f"{mean_of(group, 'hd95_mm'):.2f}", f"{mean_of(group, 'nsd'):.3f}"]
    return [
        *cells,
        f"{mean_of(group, 'steps'):.0f}",
        f"{mean_of(group, 'seconds') / 60:.1f}",
        f"{max(float(row['peak_rss_mb']) for row in group.values()):.0f}",
    ]


def percent(share: float) -> str:
    return f"{100 * share:.0f}%" if np.isfinite(share) else "-"


def reading(rows: Sequence[Row]) -> str:
    cases = len(rows[0][CASES])
    busy = [float(row["cpu_seconds"]) / float(row["seconds"]) for row in rows]
    return (
        f"{cases} test cases. Intervals: bootstrap over cases of the mean over seeds; differences are paired by case "
        "and seed. They hold the spread between cases, not that between seeds, which stands in its own column. "
        "The share of the gap is (method - supervised) / (all labels - supervised), over the seeds that all three "
        "have. Peak memory is that of the training command, with the pages of its memory-mapped cache. "
        f"Training had {min(busy):.1f} to {max(busy):.1f} cores' worth of processor time."
    )


def provenance(rows: Sequence[Row], labels: int, minutes: float) -> str:
    def listed(column: str) -> str:
        return "; ".join(sorted({str(row[column]) for row in rows}))

    methods = ",".join(dict.fromkeys(row["method"] for row in rows))
    seeds = sorted({int(row["seed"]) for row in rows})
    ceiling = " --ceiling" if any(int(row["labels"]) > labels for row in rows) else ""
    return (
        f"`python benchmarks/few_labels.py {rows[0]['dataset']} --minutes {minutes:g} --seeds {max(seeds) + 1} "
        f"--labels {labels} --methods {methods}{ceiling}` · seeds {', '.join(map(str, seeds))} · "
        f"plan: {listed('plan')} · {listed('machine')} · commit {listed('commit')} · {listed('date')}"
    )
