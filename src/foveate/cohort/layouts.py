"""From a folder to a cohort: recognises the layout by its folders and dataset.json; opens no image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from foveate.cohort.boxes import with_boxes
from foveate.cohort.cohort import Case, Cohort
from foveate.cohort.layout_msd import find_msd
from foveate.cohort.layout_nnunet import find_nnunet
from foveate.cohort.layout_plain import find_plain
from foveate.cohort.listing import read_json
from foveate.errors import InputError, Problem, refuse
from foveate.text import closest

LAYOUTS = {"nnU-Net": find_nnunet, "MSD": find_msd, "plain": find_plain}
EXPECTED = (
    "one of: (1) nnU-Net raw: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz; "
    "(2) Medical Segmentation Decathlon: dataset.json with a 'training' list; "
    "(3) plain: images/CASE.nii.gz and labels/CASE.nii.gz"
)


def find_cohort(root: Path | str) -> Cohort:
    """The cases under ``root``, with everything that the listing alone can see in ``cohort.problems``.

    Raises InputError when the folder is none of the three layouts or its dataset.json cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise refuse(root, "dataset", found, "a dataset folder", "Check the path.")
    path = root / "dataset.json"
    data = read_json(path) if path.is_file() else None
    return with_boxes(LAYOUTS[_recognise(root, data)](root, data))


def _recognise(root: Path, data: dict[str, object] | None) -> str:
    if data is not None and "training" in data and "channel_names" not in data:
        return "MSD"
    if (root / "imagesTr").is_dir():
        return "nnU-Net"
    if (root / "images").is_dir():
        return "plain"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir() if not entry.name.startswith("."))
    found = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "an empty folder"
    raise refuse(root, "layout", found, EXPECTED, "Arrange the files in one of these ways; labels may be missing.")


def read_ids(path: Path) -> list[str]:
    """Case ids from a text file, one a line; blank lines and lines that begin with # are skipped.

    Raises InputError when the file cannot be read or names no case.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise refuse(path, "file", error.strerror, "one case id a line", "Check the path.") from None
    except UnicodeDecodeError:
        raise refuse(path, "file", "no UTF-8 text", "one case id a line", "Save it as plain text.") from None
    ids = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not ids:
        raise refuse(path, "case ids", "none", "one case id a line", "Name at least one labelled case.")
    return list(dict.fromkeys(ids))


def keep_labelled(cohort: Cohort, ids: Iterable[str], source: Path | str = "labelled") -> Cohort:
    """The cohort in which only ``ids`` keep their label; the other labels are never opened.

    Raises InputError naming every id that is no case (with the nearest one) or has no label file.
    """
    wanted = list(ids)
    cases: dict[str, Case] = {case.id: case for case in cohort.cases}
    problems = []
    for name in wanted:
        if name not in cases:
            expected = f"a case of {cohort.root}"
            problems.append(Problem(str(source), "case id", repr(name), expected, closest(name, cases)))
        elif cases[name].label is None:
            fix = "Remove the line, or add the label file."
            problems.append(Problem(str(source), "case id", f"{name!r}, which has no label", "a labelled case", fix))
    if problems:
        raise InputError(problems)
    return cohort.keep_labels(wanted)
