"""``foveate explain``: every map of every scan, on the scan's own grid, with a picture and the check of each map."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import foveate
from foveate.cohort.cohort import Case
from foveate.errors import FoveateError, InputError, Problem, refuse
from foveate.explanations.maps import Explainer, MapName
from foveate.explanations.pictures import Panel, best_cut, overview
from foveate.explanations.randomise import DRAWS, SURVIVES, Check, check_maps
from foveate.files import write_atomic
from foveate.io import write_label, write_map
from foveate.io.volume import Volume
from foveate.predict.files import find_images
from foveate.predict.predictor import Predictor, load

# Bytes of maps that are held at once; more maps than that are made in several passes over the scan.
HELD = 1 << 30
NO_ATTENTION = "The network has no attention block that can be looked at; class activations are all that there is."
_TITLES = {"attention": "Attention", "seg_grad_cam": "Seg-Grad-CAM", "grad_cam": "Grad-CAM"}


@dataclass(frozen=True)
class Explanation:
    """What was written. pictures: one per scan. notes: for people, such as which maps fail the check."""

    folder: Path
    pictures: list[Path]
    notes: list[str]


def explain(
    run: str | Path | Predictor,
    input: str | Path,
    out: str | Path,
    *,
    layers: Sequence[str] = (),
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Write into ``out/CASE/`` of each scan its prediction, every map on its own grid, and ``overview.png``.

    run, input: as ``predict_files`` takes them. out: a folder, absent or empty. layers: names of the layers of the
    network that Grad-CAM and Seg-Grad-CAM are taken at; by default the bottleneck and the last decoder stage but one.
    Maps are float32 NIfTI, TIFF for pictures; ``out/explain.json`` lists them with their checks. Maps that weigh
    channels go to ``channel_weights.csv``. progress: called with (scans done, scans in all).

    The parameter-randomisation check runs once, on the patch of the plan's size around the prediction in the first scan
    that can be read; it is a property of the model more than of a scan, and costs as much as a few dozen patches.

    Raises InputError before any work when there is nothing to explain, a layer does not exist or ``out`` holds
    something; and at the end, when the other scans are done, with each scan that could not be read.
    """
    folder = Path(out)
    predictor = load(run, device=device) if isinstance(run, str | Path) else run
    if not isinstance(predictor, Predictor):
        fix = "Use foveate predict, which writes predictions.csv."
        raise refuse(run, "task", predictor.plan.task, "a model that segments", fix)
    explainer = Explainer(predictor.network, predictor.task, predictor.answer, layers)
    cases = find_images(Path(input), len(predictor.plan.channels))
    _check_output(folder, cases)
    work = _Work(predictor, explainer, folder)
    problems: list[Problem] = []
    for number, case in enumerate(cases, 1):
        try:
            volume = predictor.read(case.images)
            labels = predictor.predict(volume)
        except InputError as error:
            problems += [replace(problem, case=case.id) for problem in error.problems]
        else:
            work.explain(case, volume, labels)
        if progress is not None:
            progress(number, len(cases))
    if problems:
        raise InputError(problems)
    return Explanation(folder, work.pictures, work.notes)


class _Work:
    """What has been written so far; explain.json is complete after every scan."""

    def __init__(self, predictor: Predictor, explainer: Explainer, folder: Path) -> None:
        self.predictor, self.explainer, self.folder = predictor, explainer, folder
        self.checks: dict[MapName, Check] = {}
        self.files: dict[MapName, str] = {}
        self.stages: list[str] = []
        self.checked = ""
        self.cases: list[dict[str, Any]] = []
        self.pictures: list[Path] = []
        self.notes: list[str] = [] if explainer.blocks else [NO_ATTENTION]

    def explain(self, case: Case, volume: Volume, labels: np.ndarray) -> None:
        if not self.checked:
            self._check(case.id, self.predictor.patch(volume, labels))
        folder = self.folder / case.id
        suffix, map_suffix = (".nii.gz", ".nii.gz") if volume.dims == 3 else (".png", ".tif")
        write_label(folder / f"prediction{suffix}", labels, volume)
        members = {k: v if isinstance(v, tuple) else (v,) for k, v in self.predictor.plan.classes.items()}
        affine = volume.affine if volume.dims == 3 else None
        cut = best_cut(np.isin(labels, [v for group in members.values() for v in group]), volume.spacing, affine)
        panels, written = [], []
        names = list(self.checks)
        several = max(1, HELD // (4 * labels.size))
        for start in range(0, len(names), several):
            some = names[start : start + several]
            self.explainer.channel_weights.clear()
            maps = self.predictor.maps(volume, len(some), partial(_stacked, self.explainer, some))
            for name, values in zip(some, maps, strict=True):
                file = f"{self.files[name]}{map_suffix}"
                write_map(folder / file, values, volume)
                panels.append(Panel(cut.of(values), _title(name), self.checks[name].verdict))
                written.append({"map": self.files[name], "file": f"{case.id}/{file}", "highest": float(values.max())})
        record = {"case": case.id, "prediction": f"{case.id}/prediction{suffix}", "maps": written}
        if self.explainer.channel_weights:
            write_atomic(folder / "channel_weights.csv", self._channel_table())
            record["channel_weights"] = f"{case.id}/channel_weights.csv"
        picture = folder / "overview.png"
        shown = cut.of(volume.array[0]), cut.of(labels)
        write_atomic(picture, overview(case.id, *shown, members, cut, panels))
        self.pictures.append(picture)
        self.cases.append({**record, "picture": f"{case.id}/overview.png"})
        write_atomic(self.folder / "explain.json", json.dumps(self._summary(), indent=2) + "\n")

    def _check(self, case: str, patch: Tensor) -> None:
        self.stages, self.checks = check_maps(self.explainer, patch)
        self.checked, self.patch = case, list(patch.shape[2:])
        self.files = _file_names(list(self.checks))
        if failing := [self.files[name] for name, check in self.checks.items() if check.verdict == "fails"]:
            self.notes.append(
                f"{len(failing)} of {len(self.checks)} maps fail the parameter-randomisation check and explain "
                f"nothing: {', '.join(failing)}."
            )

    def _summary(self) -> dict[str, Any]:
        return {
            "foveate": foveate.__version__,
            "notes": self.notes,
            "check": {
                "case": self.checked,
                "patch": self.patch,
                "fails_from": SURVIVES,
                "draws": DRAWS,
                "cascade": self.stages,
            },
            "maps": [
                {
                    "map": self.files[name],
                    "kind": name.kind,
                    "layer": name.layer,
                    "class": name.of or None,
                    "multiplies": bool(getattr(self.explainer.blocks[name.layer], "multiplies", False))
                    if name.kind == "attention"
                    else None,
                    "check": asdict(check),
                }
                for name, check in self.checks.items()
            ],
            "cases": self.cases,
        }

    def _channel_table(self) -> str:
        """block, channel, weight: the mean over the scan's windows."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["block", "channel", "weight"])
        for block, (total, count) in self.explainer.channel_weights.items():
            table.writerows([block, channel, f"{value:.6g}"] for channel, value in enumerate((total / count).tolist()))
        return text.getvalue()


def _stacked(explainer: Explainer, names: list[MapName], x: Tensor) -> Tensor:
    maps = explainer(x)
    return torch.cat([maps[name] for name in names], 1)


def _title(name: MapName) -> str:
    of = f" of {name.of}" if name.of else ""
    return f"{_TITLES[name.kind]}{of} at {name.layer}"


def _file_names(names: Sequence[MapName]) -> dict[MapName, str]:
    """A safe file name for each map, none of which differ by case alone."""
    found: dict[MapName, str] = {}
    taken: set[str] = set()
    for name in names:
        parts = [name.kind, name.layer, *([f"{name.channel}", name.of] if name.channel is not None else [])]
        stem = "_".join(
            re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-")[:60] if i else part for i, part in enumerate(parts)
        )
        unique, number = stem, 1
        while unique.lower() in taken:
            number += 1
            unique = f"{stem}_{number}"
        taken.add(unique.lower())
        found[name] = unique
    return found


def _check_output(folder: Path, cases: Sequence[Case]) -> None:
    """Refuse, before any work, a folder that holds something and cases that would share one."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found = "a folder that holds files" if folder.is_dir() else "a file"
        raise refuse(folder, "output", found, "a new or empty folder", "Choose another folder: nothing is replaced.")
    seen: dict[str, Case] = {}
    for case in cases:
        # Compared without case: "A" and "a" are one folder on macOS and Windows.
        if (other := seen.setdefault(case.id.lower(), case)) is not case:
            raise refuse(
                folder / case.id, "output", f"cases {other.id} and {case.id}", "one case a folder", "Rename one."
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FoveateError(f"{folder}: the folder cannot be made ({error.strerror}).") from error
