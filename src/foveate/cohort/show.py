"""A check's outcome for people: the cohort in a few tables, then every problem, the gravest first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from foveate.cohort.check import CheckReport
from foveate.errors import Problem
from foveate.terminal import Terminal

GROUPS = (
    ("refuse", "Must be corrected", "bold red", "✗"),
    ("aside", "Set aside", "bold yellow", "○"),
    ("warn", "Worth knowing", "bold cyan", "!"),
)


def render(report: CheckReport, console: Console | None = None) -> None:
    """Print the cohort and all problems; wraps at the console's width and cuts nothing off."""
    console = console or Terminal()
    table = report.table()
    console.print()
    console.print(Text.assemble(("Cohort  ", "bold"), (table["root"], "cyan")), overflow="fold")
    console.print(Padding(_overview(table), (0, 0, 0, 2)))
    if report.facts:
        console.print(Padding(_ranges(table), (1, 0, 0, 2)))
    for severity, title, style, mark in GROUPS:
        found = [problem for problem in report.problems if problem.severity == severity]
        if found:
            console.print(Text(f"\n{title} ({len(found)})", style=style))
            for group in _alike(found):
                console.print(_problem(group, report.cohort.root, style, mark))
    console.print()
    console.print(_verdict(report))


def _overview(table: dict[str, Any]) -> RenderableType:
    unlabelled = f"{table['unlabelled']:,} unlabelled"
    parts = [f"{table['cases']:,} cases", f"{table['labelled']:,} labelled", unlabelled]
    if table["patients"] != table["cases"]:
        parts.append(f"{table['patients']:,} patients")
    kind = "3-D volumes" if table["dims"] == 3 else "2-D pictures"
    task = "" if table["task"] == "segmentation" else f", {table['task']}"
    lines = [Text(", ".join(parts)), Text(f"{table['layout']} layout, {kind}{task}", style="dim")]
    if table["channels"]:
        lines.append(Text("channels: " + ", ".join(table["channels"]), style="dim"))
    if table["tree"]:
        nodes = (f"{name} → {', '.join(children)}" for name, children in table["tree"].items())
        lines.append(Text("label tree: " + "; ".join(nodes), style="dim"))
    if table["orientation"]:
        axes = ", ".join(f"{code} ({count})" for code, count in table["orientation"].items())
        lines.append(Text("orientation: " + axes, style="dim"))
    return Group(*lines)


def _ranges(table: dict[str, Any]) -> Table:
    """One table, so that the columns of all quantities stand below each other."""
    grid = Table(box=None, pad_edge=False, show_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    grid.add_column("")
    for name in ("least", "median", "largest"):
        grid.add_column(name, justify="right")
    volume = table["dims"] == 3
    axes = "xyz" if volume else ("rows", "columns")
    _rows(grid, "Size in voxels" if volume else "Size in pixels", zip(axes, table["size"], strict=True))
    if volume:
        _rows(grid, "Voxel size in mm", zip(axes, table["spacing"], strict=True))
    for name, percentiles in table["intensity"].items():
        lines = ((f"percentile {percentile}", values) for percentile, values in percentiles.items())
        _rows(grid, f"Intensity, {name}", lines)
    classes = {
        f"{name}, in {found['cases']} of {found['of']}": found["volume"] for name, found in table["volumes"].items()
    }
    if table["classes"]:
        _counts(grid, table)
    for what in ("in a case", "shortest side") if table["boxes"] else ():
        unit = "" if what == "in a case" else f" in {'mm' if volume else 'pixels'}"
        _rows(grid, f"Boxes, {what}{unit}", ((name, found[what]) for name, found in table["boxes"].items()))
    if table["values"]:
        _rows(grid, "Value", [("of labelled cases", table["values"])])
    if classes:
        _rows(grid, f"Label volume in {table['volume_unit']}", classes.items())
    return grid


def _rows(grid: Table, title: str, lines: Any) -> None:
    if grid.row_count:
        grid.add_row("")
    grid.add_row(Text(title, style="bold"))
    for name, values in lines:
        cells = [_number(value) for value in values] or ["-", "-", "-"]
        grid.add_row(Text(f"  {name}", overflow="fold"), *cells)


def _counts(grid: Table, table: dict[str, Any]) -> None:
    """Labelled cases of each class, and their share, in the columns of the table."""
    grid.add_row("")
    grid.add_row(Text("Labelled cases of each class", style="bold"), Text("cases", style="dim"))
    for name, count in table["classes"].items():
        share = f"{count / table['labelled']:.0%}" if table["labelled"] else ""
        grid.add_row(Text(f"  {name}", overflow="fold"), f"{count:,}", share)


def _number(value: float) -> str:
    """Three or four figures, never an exponent where it can be helped."""
    if value == 0:
        return "0"
    if abs(value) >= 1e9 or abs(value) < 1e-3:
        return f"{value:.2e}"
    if abs(value) >= 1000 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _alike(problems: list[Problem]) -> list[list[Problem]]:
    """Problems that differ by their file alone belong together; the order stays."""
    groups: dict[tuple[str, ...], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.field, problem.found, problem.expected, problem.fix), []).append(problem)
    return list(groups.values())


def _problem(group: list[Problem], root: Path, style: str, mark: str) -> RenderableType:
    """``✗ files  field`` and below it what was found, what was expected, what to do; wrapped, never cut."""
    problem = group[0]
    names = ", ".join(_name(each, root) for each in group)
    line = Table.grid(padding=(0, 1))
    line.add_column(width=1)
    line.add_column(overflow="fold")
    line.add_row(Text(mark, style=style), Text.assemble((names, "bold"), "  ", (problem.field, "italic")))
    line.add_row("", Text.assemble(("found ", "dim"), problem.found, ("; expected ", "dim"), problem.expected))
    line.add_row("", Text.assemble(("→ ", style), problem.fix))
    return Padding(line, (0, 0, 0, 2))


def _name(problem: Problem, root: Path) -> str:
    path = Path(problem.file)
    return str(path.relative_to(root)) if path.is_relative_to(root) and path != root else problem.file


def _verdict(report: CheckReport) -> Text:
    if not report.ok:
        count = sum(problem.severity == "refuse" for problem in report.problems)
        return Text(f"✗ Cannot be trained on: {count} problem{'s' * (count > 1)} to correct.", style="bold red")
    how = f", with {' '.join(report.wanted)}" if report.wanted else ""
    return Text(f"✓ Can be trained on{how}.", style="bold green")
