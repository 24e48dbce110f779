"""What ``foveate explain`` writes for one scan after the other; explain.json is complete after every scan."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import foveate
from foveate.cohort.cohort import Case
from foveate.explanations.maps import Explainer, MapName
from foveate.explanations.pictures import Panel, Said, overview
from foveate.explanations.randomise import DRAWS, SURVIVES, Check, check_maps
from foveate.files import write_atomic
from foveate.io import write_label, write_map
from foveate.io.volume import Volume
from foveate.metrics.task_result import without_nan
from foveate.predict.predictor import AnyPredictor
from foveate.slices import best_cut, to_draw

# Bytes of maps that are held at once; more maps than that are made in several passes over the scan.
HELD = 1 << 30
NO_ATTENTION = "No slot has an attention block that can be looked at; class activations are all that there is."


@dataclass(frozen=True)
class Shown:
    """What stands first in a picture. labels ``[*S]``: outlined, by the values of classes. lines: above the scan."""

    labels: np.ndarray
    members: dict[str, tuple[int, ...]]
    lines: Sequence[str]
    record: dict[str, Any]


class Work:
    """For models that segment."""

    explainer_type: ClassVar[type[Explainer]] = Explainer
    predictor: Any  # a Predictor; see WholeWork for the other

    def __init__(self, predictor: AnyPredictor, folder: Path, layers: Sequence[str]) -> None:
        self.predictor, self.folder = predictor, folder
        self.explainer = self.explainer_type(self.predictor.network, self.predictor.task, predictor.answer, layers)
        self.checks: dict[MapName, Check] = {}
        self.checked: dict[MapName, dict[str, Any]] = {}  # case and size of the patch that each check was made on
        self.seen: set[MapName] = set()  # maps that some scan had what they are of
        self.files: dict[MapName, str] = {}
        self.stages: list[str] = []
        self.cases: list[dict[str, Any]] = []
        self.pictures: list[Path] = []
        self.remarks: list[str] = []

    def patch(self, volume: Volume, answer: np.ndarray) -> Tensor:
        """The part of a scan that the check sees, ``[1, C, *patch]``."""
        found: Tensor = self.predictor.patch(volume, answer)
        return found

    def show(self, case: Case, volume: Volume, answer: np.ndarray) -> Shown:
        """Write the prediction, and say what the picture shows of it."""
        file = f"{case.id}/prediction{'.nii.gz' if volume.dims == 3 else '.png'}"
        write_label(self.folder / file, answer, volume)
        members = {k: v if isinstance(v, tuple) else (v,) for k, v in self.predictor.plan.classes.items()}
        return Shown(answer, members, ["Prediction", "the model's answer"], {"prediction": file})

    def maps(self, volume: Volume, names: list[MapName]) -> np.ndarray:
        """Maps on the scan's own grid, float32 ``[len(names), *S]``."""
        found: np.ndarray = self.predictor.maps(volume, len(names), partial(stacked, self.explainer, names))
        return found

    def explain(self, case: Case, volume: Volume, answer: np.ndarray) -> None:
        self._check(case.id, volume, answer)
        folder = self.folder / case.id
        map_suffix = ".nii.gz" if volume.dims == 3 else ".tif"
        shown = self.show(case, volume, answer)
        affine = volume.affine if volume.dims == 3 else None
        marked = np.isin(shown.labels, [v for group in shown.members.values() for v in group])
        cut = best_cut(marked, volume.spacing, affine)
        panels, written = [], []
        names = sorted(self.checks, key=lambda name: name.kind != "evidence")
        several = max(1, HELD // (4 * marked.size))
        for start in range(0, len(names), several):
            some = names[start : start + several]
            self.explainer.channel_weights.clear()
            maps = self.maps(volume, some)
            for name, values in zip(some, maps, strict=True):
                file = f"{self.files[name]}{map_suffix}"
                write_map(folder / file, values, volume)
                signed = name.kind == "evidence"
                verdict: Said = self.checks[name].verdict if name.applies(volume.array) else "missing"
                panels.append(Panel(cut.of(values), name.title, verdict, signed))
                written.append({"map": self.files[name], "file": f"{case.id}/{file}", "highest": float(values.max())})
        record = {"case": case.id, **shown.record, "maps": written}
        if self.explainer.channel_weights:
            write_atomic(folder / "channel_weights.csv", self._channel_table())
            record["channel_weights"] = f"{case.id}/channel_weights.csv"
        picture = folder / "overview.png"
        image = to_draw(volume.array, [channel.name for channel in self.predictor.plan.channels])
        slices = cut.of(image), cut.of(shown.labels)
        write_atomic(picture, overview(case.id, *slices, shown.members, cut, panels, shown.lines))
        self.pictures.append(picture)
        self.cases.append({**record, "picture": f"{case.id}/overview.png"})
        write_atomic(
            self.folder / "explain.json", json.dumps(without_nan(self.summary()), indent=2, allow_nan=False) + "\n"
        )

    def _check(self, case: str, volume: Volume, answer: np.ndarray) -> None:
        """Check every map on the first scan whose patch it is not the same everywhere in: one lacks the modality that
        a map is of, or has no other for attention to choose from, or nothing of a class is predicted."""
        left = [name for name, check in self.checks.items() if check.verdict == "empty"]
        if self.checks and not left:
            return
        patch = self.patch(volume, answer)
        stages, checks = check_maps(self.explainer, patch, left if self.checks else None)
        if not self.checks:
            self.stages, self.files = stages, _file_names(list(checks))
            # Not asked of the network: it may hold blocks that run in other ways than by themselves.
            if not self.explainer.channel_weights and not any(name.kind == "attention" for name in checks):
                self.remarks.append(NO_ATTENTION)
        self.checks |= checks
        made = {"case": case, "patch": list(patch.shape[2:])}
        self.checked |= {name: made for name, check in checks.items() if check.verdict != "empty"}
        self.seen |= {name for name in self.checks if name.applies(volume.array)}

    @property
    def notes(self) -> list[str]:
        """For people."""
        failing = [self.files[name] for name, check in self.checks.items() if check.verdict == "fails"]
        if not failing:
            return self.remarks
        said = f"{len(failing)} of {len(self.checks)} maps fail the parameter-randomisation check and explain nothing"
        return [*self.remarks, f"{said}: {', '.join(failing)}."]

    def _made(self, name: MapName) -> dict[str, Any]:
        """What a check was made on, or why there is none."""
        if name in self.checked:
            return self.checked[name]
        none = "one value everywhere in the patch of every scan"
        return {"not_checked": none if name in self.seen else f"no scan has {name.of}"}

    def summary(self) -> dict[str, Any]:
        return {
            "foveate": foveate.__version__,
            "notes": self.notes,
            "check": {
                "fails_from": SURVIVES,
                "draws": DRAWS,
                "cascade": self.stages,
            },
            "maps": [
                {
                    "map": self.files[name],
                    "kind": name.kind,
                    "layer": name.layer,
                    "modality" if name.kind == "attention" else "class": name.of or None,
                    "multiplies": bool(getattr(self.explainer.blocks[name.layer], "multiplies", False))
                    if name.kind == "attention"
                    else None,
                    "check": {**self._made(name), **asdict(check)},
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


def stacked(explainer: Explainer, names: list[MapName], x: Tensor) -> Tensor:
    maps = explainer(x)
    return torch.cat([maps[name] for name in names], 1)


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
