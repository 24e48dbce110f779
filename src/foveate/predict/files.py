"""Label every scan of a folder with a trained model, one file out for each scan in."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foveate.cohort.cohort import Case
from foveate.cohort.layout_nnunet import missing_channels
from foveate.cohort.listing import check_name, some
from foveate.errors import InputError, Problem, refuse
from foveate.files import make_folder
from foveate.io import PICTURE_SUFFIXES, case_stem, image_suffix, is_series, write_label
from foveate.io.dicom_header import is_dicom
from foveate.predict.boxes_file import boxes_path, picture_path, predict_boxes
from foveate.predict.detecting import BoxPredictor
from foveate.predict.dicom_cases import dicom_cases
from foveate.predict.predictor import AnyPredictor, Predictor, load
from foveate.predict.table import find_tree, predict_table, table_path
from foveate.predict.whole import WholePredictor
from foveate.slices import COLOURS

SAID = 3  # lines about one field of images
CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
# Where the images of a dataset folder lie, the new scans before those of the training set.
IMAGE_FOLDERS = ("imagesTs", "images", "imagesTr")


@dataclass(frozen=True)
class Asked:
    """How to predict; see ``predict_files``."""

    mirror: bool
    views: int
    all_pieces: bool
    overwrite: bool
    resume: bool


def predict_files(
    run: str | Path | AnyPredictor,
    input: str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    mirror: bool = False,
    views: int = 0,
    all_pieces: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], object] = lambda text: None,
) -> list[Path]:
    """Label a scan or a folder of scans; returns the files written, in order of the cases.

    A model that answers for whole images writes one table, predictions.csv, also of folders in the folder; one that
    finds boxes predictions.json and pictures.

    run: run or model folder, or a Predictor. input: an image, a folder of images (``_0000`` suffixes name
    channels; one of which there is no file is missing, if the network takes that), or a dataset folder with imagesTs/,
    images/ or imagesTr/; or a folder of a DICOM series, or of such folders, whose names say which channel each is. out:
    a folder, or for one image the file to write. Results are uint8 on the input's own grid, ``CASE.nii.gz`` or
    ``CASE.png``. overwrite: replace files that are there, each by a complete new one; else they are refused, as they
    may be masks that somebody has drawn. resume: leave such files alone, and predict the other images: a mask that is
    there is complete, wherever a prediction was cut short.
    mirror, views, all_pieces: see ``Predictor.predict``; boxes are averaged over no views, and label maps alone have
    pieces. progress: called with (cases done, cases in all). note: told what is odd about the images, though they can
    be read, and what was left out of predictions.

    Raises InputError before any work when nothing can be predicted or an output would replace an input; and at
    the end, when the other cases are done, with each case that could not be read.
    """
    source, target = Path(input), Path(out)
    predictor = load(run, device=device) if isinstance(run, str | Path) else run
    asked = Asked(mirror, views, all_pieces, overwrite, resume)
    _check_options(predictor, asked)
    said: list[Problem] = []
    try:
        return _predict(predictor, source, target, asked, progress, note, said)
    finally:  # also where a case could not be read: the others are predicted
        for line in oddities(said):
            note(line)


def oddities(said: Sequence[Problem]) -> list[str]:
    """What is odd about images, a line each, but of more than SAID with one field the first ones and their number."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for line, field in sorted({(str(problem), problem.field) for problem in said}):
        kinds[field].append(line)
    out = []
    for field, lines in kinds.items():
        out += lines[:SAID]
        if len(lines) > SAID:
            out.append(f"{field}: {len(lines) - SAID} more like these.")
    return out


def _predict(
    predictor: AnyPredictor,
    source: Path,
    target: Path,
    asked: Asked,
    progress: Callable[[int, int], None] | None,
    note: Callable[[str], object],
    said: list[Problem],
) -> list[Path]:
    """See ``predict_files``; said: takes warnings of images."""
    if isinstance(predictor, WholePredictor):
        cases = find_whole(source, channel_names(predictor))
        if not predictor.takes_missing:
            _check_complete(cases, predictor)
        _make_room([table_path(target)], asked)
        return [predict_table(predictor, cases, target, views=asked.views, progress=progress, said=said)]
    if isinstance(predictor, BoxPredictor):
        cases = find_whole(source, channel_names(predictor))
        pictures = [picture_path(target, case) for case in cases]
        _check_distinct(cases, pictures)
        _make_room([boxes_path(target), *pictures], asked)
        return predict_boxes(predictor, cases, target, mirror=asked.mirror, progress=progress, said=said)
    cases = find_images(source, channel_names(predictor))
    if not predictor.takes_missing:
        _check_complete(cases, predictor)
    outputs = [_output(case, source, target) for case in cases]
    _check_outputs(cases, outputs)
    _make_room(outputs, asked)
    left = [pair for pair in zip(cases, outputs, strict=True) if not (asked.resume and pair[1].exists())]
    if asked.resume:
        note(f"{len(cases) - len(left)} of {len(cases)} masks were there already and are left as they are.")
    return _predict_maps(predictor, left, asked, progress, note, said)


def _predict_maps(
    predictor: Predictor,
    cases: Sequence[tuple[Case, Path]],
    asked: Asked,
    progress: Callable[[int, int], None] | None,
    note: Callable[[str], object],
    said: list[Problem],
) -> list[Path]:
    """Write the label map of each case to its file; see ``predict_files``."""
    written: list[Path] = []
    problems: list[Problem] = []
    left_out: Counter[str] = Counter()
    rivals: dict[str, list[str]] = defaultdict(list)
    for number, (case, output) in enumerate(cases, 1):
        try:
            volume = predictor.read(case.images, case.missing, said)
            labels = predictor.predict(volume, mirror=asked.mirror, views=asked.views, all_pieces=True)
            if not asked.all_pieces:
                tidied = predictor.tidy(labels)
                labels = tidied.labels
                left_out.update(tidied.left_out)
                for name in tidied.rivals:
                    rivals[name].append(case.id)
        except InputError as error:
            problems += [replace(problem, case=case.id) for problem in error.problems]
        else:
            write_label(output, labels, volume)
            written.append(output)
        if progress is not None:
            progress(number, len(cases))
    for name, doubtful in rivals.items():
        note(
            f"{name}: in {len(doubtful)} of {len(cases)} scans another piece is at least half as large as the largest, "
            f"and both are kept, though the labelled cases show it in one. Look at {some(doubtful)}."
        )
    for name, times in left_out.items():
        note(
            f"{name}: in {times} of {len(cases)} scans, what lies apart from the largest piece was left out, because "
            "the labelled cases show it in one. --all-pieces keeps it."
        )
    if any(path.suffix == ".png" for path in written):
        last = int(predictor.task.values.max())
        note(f"Masks of pictures hold the numbers of the classes, 0 to {last}: most viewers show them as black.")
    if problems:
        raise InputError(problems)
    return written


def _check_options(predictor: AnyPredictor, asked: Asked) -> None:
    """Refuse, before any work, what would change nothing for this model, and what contradicts itself."""
    task = predictor.plan.task
    predictor.mirror_axes(asked.mirror)
    if asked.views and isinstance(predictor, BoxPredictor):
        expected = "a model whose answers can be averaged"
        raise refuse("predict", "--views", f"{asked.views}, and a model for {task}", expected, "Leave it out.")
    for option, given in (("--all-pieces", asked.all_pieces), ("--resume", asked.resume)):
        if given and not isinstance(predictor, Predictor):
            raise refuse("predict", option, f"a model for {task}", "a model that segments", "Leave it out.")
    if asked.resume and asked.overwrite:
        raise refuse("predict", "--resume", "with --overwrite", "one of the two", "Leave one out.")


def channel_names(predictor: AnyPredictor) -> tuple[str, ...]:
    return tuple(channel.name for channel in predictor.plan.channels)


def find_images(source: Path, names: Sequence[str]) -> list[Case]:
    """The cases at ``source`` for a model of these channels. Raises InputError when there are none."""
    channels = 1 if tuple(names) == COLOURS else len(names)  # files of a case
    if source.is_file():
        if not image_suffix(source) and is_dicom(source):
            fix = "Give its folder: all DICOM files in it are one scan."
            raise refuse(source, "input", "a DICOM file", "the folder of a DICOM series", fix)
        if not image_suffix(source):
            raise refuse(source, "name", source.suffix or "no suffix", "a NIfTI, PNG, JPEG or TIFF file", "Convert it.")
        match = CHANNEL.match(case_stem(source))
        # One channel of a case named: the others lie beside it.
        beside = [f for f in _images(source.parent) if match and _is_channel_of(f, match["case"])]
        if match and channels > 1 and (len(beside) > 1 or int(match["channel"]) < channels):
            return _group(beside, channels)
        # IMG_0000 beside IMG_0001 is the first of several pictures, as it is when all of them are predicted.
        name = match["case"] if match and _number_channels(beside) else case_stem(source)
        return [Case(name, (source,), None, name)]
    if not source.is_dir():
        raise refuse(source, "input", "nothing", "an image or a folder of images", "Check the path.")
    inner = [folder for name in IMAGE_FOLDERS if (folder := source / name).is_dir()]
    files = _images(source) or next((files for folder in inner if (files := _images(folder, series=True))), [])
    if not files and (cases := dicom_cases(source, names)):
        return cases
    if not files:
        expected = "DICOM series, or NIfTI, PNG, JPEG or TIFF files in it or in " + ", ".join(IMAGE_FOLDERS)
        raise refuse(source, "input", "no images", expected, "Check the path.")
    if files[0].parent == source and (series := [entry.name for entry in sorted(source.iterdir()) if is_series(entry)]):
        found = f"{len(files)} image files and {len(series)} folders of DICOM series ({series[0]}, ...)"
        raise refuse(files[0].parent, "input", found, "one kind of image", "Predict the two kinds one after the other.")
    return _group(files, channels)


def find_whole(source: Path, names: Sequence[str]) -> list[Case]:
    """The cases at ``source`` for a model that answers for whole images: as for others where the images lie together,
    else those of all folders in it. Raises InputError when there are none."""
    together = [source, *(source / name for name in IMAGE_FOLDERS)]
    if not source.is_dir() or any(folder.is_dir() and _images(folder) for folder in together):
        return find_images(source, names)
    return find_tree(source) or find_images(source, names)


def _images(folder: Path, series: bool = False) -> list[Path]:
    """Image files of a folder, with those of a DICOM series if wanted; macOS leaves ``._*`` files that are none."""
    there = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in there:
        check_name(entry)
    return [f for f in there if (image_suffix(f) and f.is_file()) or (series and is_series(f))]


def _is_channel_of(file: Path, case: str) -> bool:
    match = CHANNEL.match(case_stem(file))
    return match is not None and match["case"] == case


def _group(files: Sequence[Path], channels: int) -> list[Case]:
    """Files -> cases, of ``channels`` files each: by the name before ``_0000`` if there are several or all carry it.

    Files that are a case each end in other numbers too, IMG_0031, which are no channels.
    """
    matches = {file: CHANNEL.match(case_stem(file)) for file in files}
    together = any(matches.values()) if channels > 1 else _number_channels(files)
    grouped: dict[str, dict[int, Path]] = {}
    problems = []
    for file in files:
        match = matches[file] if together else None
        name, number = (match["case"], int(match["channel"])) if match else (case_stem(file), 0)
        other = grouped.setdefault(name, {}).setdefault(number, file)
        if other is not file:
            problems.append(Problem(str(file), "name", f"the same case as {other.name}", "one file", "Remove one."))
    missing = {
        name: missing_channels(paths, channels) if channels > 1 and matches[next(iter(paths.values()))] else ()
        for name, paths in grouped.items()
    }
    for name, paths in grouped.items():
        # More of them than the model has are found when they are read.
        if sorted({*paths, *missing[name]}) != list(range(len(paths) + len(missing[name]))):
            found = ", ".join(f"{number:04d}" for number in sorted(paths))
            fix = "Add the missing file, or number the channels from 0000."
            problems.append(
                Problem(str(next(iter(paths.values()))), f"channels of {name}", found, "0000, 0001, ...", fix)
            )
    if problems:
        raise InputError(problems)
    return [Case(n, tuple(p[i] for i in sorted(p)), None, n, missing[n]) for n, p in sorted(grouped.items())]


def _number_channels(files: Sequence[Path]) -> bool:
    """Whether the numbers at the end of names say that each file is the first channel of its case; of volumes, whether
    they run from 0000 in each: a case of two channels is not for a model of one, and must not become two cases."""
    matches = [match for file in files if (match := CHANNEL.match(case_stem(file)))]
    numbers: dict[str, set[int]] = defaultdict(set)
    for match in matches:
        numbers[match["case"]].add(int(match["channel"]))
    pictures = all(image_suffix(file) in PICTURE_SUFFIXES for file in files)
    counted = all(found == set(range(1 if pictures else len(found))) for found in numbers.values())
    return len(matches) == len(files) and counted


def _check_complete(cases: Sequence[Case], predictor: AnyPredictor) -> None:
    """Refuse, before any work, cases without a file of a modality, for a network that needs all of them."""
    problems = []
    for case in cases:
        # _0000 alone may hold all channels, which is seen when it is read.
        if case.missing and (len(case.images) > 1 or 0 in case.missing):
            problems += predictor.refuse_missing(str(case.images[0]), f"channels of {case.id}", case.missing).problems
    if problems:
        raise InputError(problems)


def _output(case: Case, source: Path, target: Path) -> Path:
    """Where the labels of a case go; a volume becomes .nii.gz, a picture .png."""
    volume = image_suffix(case.images[0]) not in PICTURE_SUFFIXES
    if (source.is_file() or source in case.images) and image_suffix(target) and not target.is_dir():
        return target
    return target / (case.id + (".nii.gz" if volume else ".png"))


def _check_distinct(cases: Sequence[Case], outputs: Sequence[Path]) -> None:
    """Refuse, before any work, outputs that are inputs or that coincide."""
    problems = []
    inputs = {file.resolve() for case in cases for file in case.images}
    seen: dict[str, Case] = {}
    for case, output in zip(cases, outputs, strict=True):
        if output.resolve() in inputs:
            problems.append(
                Problem(str(output), "output", "the input itself", "another file", "Choose another folder.")
            )
        # Compared without case: "A" and "a" are one file on macOS and Windows.
        if (other := seen.setdefault(str(output).lower(), case)) is not case:
            found = f"cases {other.id} and {case.id}"
            problems.append(Problem(str(output), "output", found, "one case a file", "Rename one of the images."))
    if problems:
        raise InputError(problems)


def _check_outputs(cases: Sequence[Case], outputs: Sequence[Path]) -> None:
    """Refuse, before any work, outputs that are inputs, that coincide, or whose names say another kind of file."""
    _check_distinct(cases, outputs)
    problems = []
    for case, output in zip(cases, outputs, strict=True):
        volume = image_suffix(case.images[0]) not in PICTURE_SUFFIXES
        if image_suffix(output) not in ((".nii", ".nii.gz") if volume else (".png",)):
            expected = ".nii.gz or .nii" if volume else ".png"
            problems.append(Problem(str(output), "name", output.suffix, expected, "Change the output's name."))
    if problems:
        raise InputError(problems)


def _make_room(outputs: Sequence[Path], asked: Asked) -> None:
    """Refuse, before any work, outputs that are there, unless they are to be replaced or left; make their folders."""
    there = [output for output in outputs if output.exists()]
    if there and not (asked.overwrite or asked.resume):
        found = f"{len(there)} of {len(outputs)} files already there ({some([output.name for output in there])})"
        fix = "Choose another folder, or say --overwrite if nobody needs them, or --resume to predict the others alone."
        raise refuse(there[0].parent, "output", found, "files that are not there yet", fix)
    for folder in {output.parent for output in outputs}:
        make_folder(folder)
