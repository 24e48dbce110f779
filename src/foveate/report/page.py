"""report.html: one file that needs nothing else, to look at on any screen."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from foveate.figures import INK
from foveate.files import write_atomic
from foveate.report.pictures import View, case_views, colours, curve_picture

_CURVES = (
    ("loss", "Loss"),
    ("learning_rate", "Learning rate"),
    ("dice", "Validation Dice"),
    ("macro_f1", "Validation macro F1"),
    ("ap50", "Validation AP50"),
    ("mae", "Validation mean absolute error"),
)
_HEADERS = {"dice": "Dice", "nsd": "Surface Dice", "ap50": "AP50", "ap": "AP", "froc": "FROC"} | {
    f"{key}_{unit}": f"{name} ({unit})" for key, name in (("hd95", "HD95"), ("asd", "ASD")) for unit in ("mm", "px")
}


@dataclass(frozen=True)
class ReportCase:
    """One scan to show.

    image: ``[*S]`` one channel, 2D or 3D, or a picture's colours as of ``slices.to_draw``. spacing: mm per axis.
    label: integer ``[*S]``, or None when the scan has none. prediction: integer ``[*S]``. dice: its mean Dice, or None.
    caption: a line of plain text.
    views: what to show, where it is drawn already; prediction is then None.
    affine: 4x4 to RAS mm, without which a volume is shown in axis order and sides are not marked.
    """

    id: str
    image: np.ndarray
    spacing: tuple[float, ...]
    label: np.ndarray | None
    prediction: np.ndarray | None
    dice: float | None = None
    caption: str = ""
    affine: np.ndarray | None = None
    views: Sequence[View] = ()


def write_report(
    path: Path,
    *,
    title: str,
    subtitle: str = "",
    notes: Sequence[str] = (),
    table: Sequence[Mapping[str, Any]] = (),
    curves: Mapping[str, list[dict[str, Any]]] | None = None,
    cases: Sequence[ReportCase] = (),
    classes: Sequence[str] | Mapping[str, int | tuple[int, ...]] = (),
    command: str = "",
    provenance: Mapping[str, Any] | None = None,
    confusion: Sequence[Mapping[str, Any]] = (),
    attention: View | None = None,
) -> Path:
    """Write the page and return its path; all text is escaped and nothing is loaded from elsewhere.

    path: the HTML file, or a folder, in which it is called report.html. notes: what the reader must know,
    such as what the cohort cannot claim. table: rows with the same keys; a pair of numbers under ``X_interval``
    is shown below X. curves: name of a run -> records of its log.jsonl (step, loss, learning_rate, dice).
    cases: shown worst Dice first, those without a Dice last, as they are given. classes: names of the label values
    1, 2, ..., or name -> value or values. provenance: data hashes, versions, seed and so on. confusion: a row for each
    class, how often cases of it got each answer. attention: maps of a network's attention blocks over a case, named by
    the title.

    Raises Unwritable when the file cannot be written; an earlier one is then still there.
    """
    path = path / "report.html" if path.is_dir() else path
    named = dict(classes) if isinstance(classes, Mapping) else {name: i + 1 for i, name in enumerate(classes)}
    values = [(value,) if isinstance(value, int) else tuple(value) for value in named.values()]
    page = _template().render(
        title=title,
        subtitle=subtitle,
        notes=list(notes),
        table=_table(table),
        confusion=_table(confusion),
        curves=_curves(dict(curves or {})),
        legend=list(zip(named, colours(len(named)), strict=True)),
        labelled=any(case.label is not None for case in cases),
        volumes=any(len(case.spacing) == 3 for case in cases),
        marked=any(case.affine is not None for case in cases),
        cases=[_case(case, values) for case in _worst_first(cases)],
        attention=None if attention is None else {"title": attention.title, "source": _data_url(attention)},
        command=command,
        provenance=list(_flat(provenance or {})),
    )
    write_atomic(path, page)
    return path


@cache
def _template() -> jinja2.Template:
    source = files("foveate.report").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    return environment.from_string(source)


def _worst_first(cases: Sequence[ReportCase]) -> list[ReportCase]:
    return sorted(cases, key=lambda case: (_number(case.dice) is None, _number(case.dice) or 0.0))


def _case(case: ReportCase, values: Sequence[Sequence[int]]) -> dict[str, Any]:
    views = case.views
    if case.prediction is not None:
        views = case_views(case.image, case.spacing, case.label, case.prediction, values, case.affine)
    return {
        "id": case.id,
        "dice": None if _number(case.dice) is None else f"{case.dice:.3f}",
        "caption": case.caption,
        "views": [{"title": view.title, "source": _data_url(view)} for view in views],
    }


def _curves(curves: dict[str, list[dict[str, Any]]]) -> list[dict[str, str]]:
    """Every curve twice, for a light and a dark page; the browser takes the one that fits."""
    out = []
    for key, title in _CURVES:
        pictures = {theme: curve_picture(curves, key, title, theme) for theme in INK}
        if all(pictures.values()):
            sources = {theme: _data_url(View(title, png)) for theme, png in pictures.items() if png is not None}
            out.append({"title": title, **sources})
    return out


def _data_url(view: View) -> str:
    return "data:image/png;base64," + base64.b64encode(view.png).decode("ascii")


def _table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Header and cells (text, small text below, whether a number); ``X_interval`` goes below X."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = [key for key in keys if not (key.endswith("_interval") and key.removesuffix("_interval") in keys)]
    if not columns:
        return None
    body = []
    for row in rows:
        cells = []
        for key in columns:
            value, below = row.get(key), _text(row.get(f"{key}_interval"))
            numeric = isinstance(value, int | float) or value is None
            cells.append({"text": _text(value), "below": "" if below == "–" else below, "numeric": numeric})
        body.append(cells)
    return {"header": [{"text": _HEADERS.get(key, str(key).replace("_", " ")), "numeric": body[0][i]["numeric"]}
                       for i, key in enumerate(columns)], "rows": body}  # fmt: skip


def _text(value: Any) -> str:
    """A cell: three decimals, a pair as "low to high", a dash for what does not apply."""
    if isinstance(value, tuple | list) and len(value) == 2 and all(_is_number(item) or item is None for item in value):
        low, high = map(_text, value)
        return "–" if "–" in (low, high) else f"{low} to {high}"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted key, text); long lists are cut, with their length."""
    out: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            items = _flat(value, f"{name}.")
            out += items if len(items) <= 20 else [*items[:20], (name, f"and {len(items) - 20} more")]
        elif isinstance(value, list | tuple):
            tail = f", ... ({len(value)} in all)" if len(value) > 12 else ""
            out.append((name, ", ".join(map(str, value[:12])) + tail))
        else:
            out.append((name, str(value)))
    return out
