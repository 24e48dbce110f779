"""Which prediction belongs to which label, and what lies beside the labels."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

from foveate.errors import refuse
from foveate.io import case_stem, image_suffix
from foveate.metrics.case import Classes

_LABEL_FOLDERS = ("labelsTr", "labels")


@dataclass(frozen=True)
class References:
    """The label files by case id, and what lies beside them.

    classes: as declared by dataset.json, or None. ignore: its ignore value. patients: case -> patient.
    """

    files: dict[str, Path]
    classes: Classes | None = None
    ignore: int | None = None
    patients: dict[str, str] = field(default_factory=dict)


def find_references(labels: Path) -> References:
    """The references at ``labels``: a label file, a folder of them, or a dataset folder with labelsTr/ or labels/.

    dataset.json and patients.csv are read from that folder, or from its parent when the folder itself is
    called labelsTr, labelsTs or labels. Raises InputError when nothing is there.
    """
    if labels.is_file():
        return References({case_stem(labels): labels})
    inner = next((labels / name for name in _LABEL_FOLDERS if (labels / name).is_dir()), labels)
    files = list_images(inner)
    root = inner.parent if inner.name in (*_LABEL_FOLDERS, "labelsTs") else inner
    classes, ignore = _declared_classes(root / "dataset.json")
    return References(files, classes, ignore, _patients(root / "patients.csv"))


def list_images(folder: Path) -> dict[str, Path]:
    """Image files of a folder by case id. Raises InputError: no such folder, no image, two files of one case."""
    if not folder.is_dir():
        raise refuse(folder, "path", "nothing", "a folder of label maps, or one file", "Check the path.")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not image_suffix(path) or not path.is_file():
            continue
        stem = case_stem(path)
        if stem in files:
            raise refuse(
                path, "case id", f"{stem!r} twice ({files[stem].name})", "one file per case", "Remove one of the two."
            )
        files[stem] = path
    if not files:
        raise refuse(folder, "files", "no image file", "label maps (NIfTI, PNG or TIFF)", "Check the path.")
    return files


def match_predictions(predictions: Path, references: References) -> dict[str, Path]:
    """Prediction file by case id. One file against one label need not share a name.

    Raises InputError when the path holds nothing, or when no prediction has the name of any label.
    """
    if predictions.is_file():
        if len(references.files) == 1:
            return {next(iter(references.files)): predictions}
        files = {case_stem(predictions): predictions}
    else:
        files = list_images(predictions)
    if not files.keys() & references.files.keys():
        found, expected = (", ".join(sorted(ids)[:3]) for ids in (files, references.files))
        raise refuse(
            predictions,
            "case ids",
            f"{found} ({len(files)} in all), none of which has a label",
            f"names of the label files, such as {expected}",
            "Name each prediction as its label file, or check the two paths.",
        )
    return files


def _declared_classes(path: Path) -> tuple[Classes | None, int | None]:
    if not path.is_file():
        return None, None
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))["labels"]
        if all(str(key).isdigit() for key in labels):  # MSD: value -> name
            labels = {str(name): int(value) for value, name in labels.items()}
        read = {str(k): tuple(map(int, v)) if isinstance(v, list) else int(v) for k, v in labels.items()}
    except (KeyError, TypeError, ValueError, AttributeError, UnicodeDecodeError) as error:
        raise refuse(
            path, "labels", f"{type(error).__name__}: {error}", "class names and values", "Correct dataset.json."
        ) from None
    ignore = read.pop("ignore", None)
    classes = {name: value for name, value in read.items() if value not in (0, (0,))}
    return classes or None, ignore if isinstance(ignore, int) else None


def _patients(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines))
    if rows and not {"case", "patient"} <= rows[0].keys():
        raise refuse(
            path, "header", ",".join(map(str, rows[0])), "case,patient", "Name the two columns case and patient."
        )
    return {row["case"].strip(): row["patient"].strip() for row in rows if row["case"] and row["patient"]}
