"""The three layouts are recognised, and what their lists and names get wrong is said."""

import itertools
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scans import label, msd_dataset, nnunet_dataset, plain_dataset, read_json, scan, write_json, write_nifti

from foveate.cohort.check import check
from foveate.cohort.layouts import find_cohort, keep_labelled, read_ids
from foveate.errors import InputError
from foveate.predict.files import find_images


def ids(cases) -> list[str]:
    return [case.id for case in cases]


def test_nnunet(tmp_path: Path) -> None:
    root = nnunet_dataset(tmp_path)
    write_nifti(root / "imagesTs" / "test_0000.nii.gz", scan(5))
    cohort = find_cohort(root)
    assert (cohort.layout, cohort.dims, cohort.channels) == ("nnU-Net", 3, ("T1", "T2"))
    assert cohort.classes == {"organ": 1, "lesion": 2}
    assert ids(cohort.labelled) == ["case0", "case1"]
    assert ids(cohort.unlabelled) == ["case2"]
    assert [path.name for path in cohort.cases[1].images] == ["case1_0000.nii.gz", "case1_0001.nii.gz"]
    assert cohort.problems == ()


def test_nnunet_regions_and_ignore(tmp_path: Path) -> None:
    root = nnunet_dataset(tmp_path)
    labels = {"background": 0, "whole": [1, 2], "core": [2], "edge": 1, "ignore": 3}
    write_json(root, {**read_json(root), "labels": labels, "regions_class_order": [1, 2, 1]})
    cohort = find_cohort(root)
    assert cohort.classes == {"whole": (1, 2), "core": (2,), "edge": 1}
    assert cohort.ignore == 3


def test_msd(tmp_path: Path) -> None:
    cohort = find_cohort(msd_dataset(tmp_path))
    assert (cohort.layout, cohort.channels, cohort.classes) == ("MSD", ("MRI",), {"organ": 1, "lesion": 2})
    assert ids(cohort.labelled) == ["a", "b"]
    assert ids(cohort.unlabelled) == ["c", "d"]
    assert cohort.cases[0].images[0].is_file()
    assert cohort.problems == ()


def test_plain_without_any_label_folder(tmp_path: Path) -> None:
    root = plain_dataset(tmp_path, cases=3, unlabelled=3)
    (root / "labels").rmdir()
    cohort = find_cohort(root)
    assert (cohort.layout, ids(cohort.unlabelled), cohort.classes, cohort.channels) == (
        "plain",
        ["a", "b", "c"],
        {},
        (),
    )


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (["p_0000", "p_0001", "q_0000", "q_0001"], [], {"p": 2, "q": 2}),
        (["p_0000", "q_0000"], ["p"], {"p": 1, "q": 1}),
        (["p_0000", "p_0001"], ["p"], {"p": 2}),
        (["scan_0000", "scan_0001"], [], {"scan_0000": 1, "scan_0001": 1}),
        (["s_0000", "s_0001"], ["s_0001"], {"s_0000": 1, "s_0001": 1}),
        (["s_0001", "s_0002", "t_0001"], [], {"s_0001": 1, "s_0002": 1, "t_0001": 1}),
        (["p_0000", "p_0001", "q"], [], {"p_0000": 1, "p_0001": 1, "q": 1}),
    ],
)
def test_plain_numbers_are_channels_only_where_they_must_be(tmp_path: Path, names, labels, expected) -> None:
    for name in names:
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", scan(1))
    for name in labels:
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", label())
    cohort = find_cohort(tmp_path)
    assert {case.id: len(case.images) for case in cohort.cases} == expected
    assert ids(cohort.labelled) == labels
    assert cohort.problems == ()


def test_patients(tmp_path: Path) -> None:
    root = plain_dataset(tmp_path, cases=4)
    (root / "patients.csv").write_text("case, patient\na,Ann\nb,Ann\nzz,Bob\n", encoding="utf-8-sig")
    cohort = find_cohort(root)
    patients = {case.id: case.patient for case in cohort.cases}
    assert patients["a"] == patients["b"] == "Ann"
    assert len(set(patients.values())) == 3
    text = "\n".join(map(str, cohort.problems))
    assert [problem.severity for problem in cohort.problems] == ["warn", "warn"]
    assert "zz" in text
    assert "no line for 2 cases (c, d)" in text


def test_names_are_compared_in_one_form_of_unicode(tmp_path: Path) -> None:
    """macOS writes an umlaut as letter and mark, others as one sign; a folder may have both."""
    apart, one = (unicodedata.normalize(form, "Müller") for form in ("NFD", "NFC"))
    root = plain_dataset(tmp_path)
    write_nifti(root / "images" / f"{apart}.nii.gz", scan(7))
    write_nifti(root / "labels" / f"{one}.nii.gz", label())
    (root / "patients.csv").write_text(f"case,patient\n{apart},Ann\n", encoding="utf-8")
    (root / "ids.txt").write_text(f"{apart}\n", encoding="utf-8")
    cohort = keep_labelled(find_cohort(root), read_ids(root / "ids.txt"))
    assert [(case.id, case.patient) for case in cohort.labelled] == [(one, "Ann")]
    (case,) = [case for case in find_images(root, ("c",)) if case.id == one]
    assert case.images[0].exists()


def test_three_grey_files_a_case_are_no_colours(tmp_path: Path) -> None:
    """A model that was trained on them finds them again when it predicts."""
    for name, number in itertools.product("ab", range(3)):
        (tmp_path / "images").mkdir(exist_ok=True)
        pixels = np.random.default_rng(ord(name) + number).integers(0, 255, (16, 16), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}_{number:04d}.png")
    (tmp_path / "labels.csv").write_text("case,value\na,1\nb,2\n")
    cohort = check(tmp_path).cohort
    assert cohort.channels == ("channel 0", "channel 1", "channel 2")
    assert [(case.id, len(case.images)) for case in find_images(tmp_path, cohort.channels)] == [("a", 3), ("b", 3)]


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,Ann\n", "case,patient"), ("", "case,patient"), ("case,patient\na,Ann\na,Bob\n", "Ann and Bob")],
)
def test_wrong_patients_are_refused(tmp_path: Path, text: str, words: str) -> None:
    root = plain_dataset(tmp_path)
    (root / "patients.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        raise InputError(find_cohort(root).problems)


def nothing_known(root: Path) -> None:
    for folder in ("images", "labels"):
        (root / folder).rename(root / f"my_{folder}")


def link_out(name: str) -> Callable[[Path], None]:
    def fault(root: Path) -> None:
        outside = root.parent / "outside.nii.gz"
        write_nifti(outside, scan(3))
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(outside)

    return fault


def linked_folder(root: Path) -> None:
    (root / "images").rename(root.parent / "elsewhere")
    (root / "images").symlink_to(root.parent / "elsewhere")


def copy(old: str, new: str) -> Callable[[Path], None]:
    return lambda root: (root / new).write_bytes((root / old).read_bytes()) and None


def replaced(**values: object) -> Callable[[Path], None]:
    return lambda root: write_json(root, {**read_json(root), **values})


def without(key: str) -> Callable[[Path], None]:
    return lambda root: write_json(root, {k: v for k, v in read_json(root).items() if k != key})


def text(content: str) -> Callable[[Path], None]:
    return lambda root: (root / "dataset.json").write_text(content) and None


def unlink(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


DATASET_FAULTS = [
    ("plain", nothing_known, "my_images/, my_labels/; expected one of: (1) nnU-Net raw"),
    ("plain", link_out("images/b.nii.gz"), "link: found a link to"),
    ("plain", link_out("labels/b.nii.gz"), "link: found a link to"),
    ("plain", linked_folder, "link: found a link to"),
    ("plain", copy("images/a.nii.gz", "images/A.nii.gz"), "names that differ by case only: found A.nii.gz and a"),
    ("plain", copy("images/a.nii.gz", "images/a.nii"), "files: found a.nii and a.nii.gz"),
    ("plain", copy("images/a.nii.gz", "images/z.png"), "1 pictures and 3 NIfTI files"),
    ("plain", copy("labels/a.nii.gz", "labels/C.nii.gz"), "a label whose image is called c"),
    ("plain", copy("labels/a.nii.gz", "labels/x.nii.gz"), "a label without image; expected an image of case 'x'"),
    ("plain", text('{"labels": {"organ": 1,}}'), "valid JSON"),
    ("plain", text("[1, 2]"), "expected an object"),
    ("plain", text('{"labels": {"background": 0, "organ": "1"}}'), "labels.organ: found \"1\""),
    ("plain", text('{"labels": {"background": 0, "organ": true}}'), "labels.organ: found true"),
    ("plain", text('{"labels": {"background": 0, "organ": 1, "lesion": 1}}'), "labels.lesion: found 1, the value of"),
    ("plain", text('{"labels": {"background": 0}}'), "no foreground class"),
    ("nnunet", unlink("dataset.json"), "dataset.json: file: found nothing"),
    ("nnunet", without("channel_names"), "channel_names: found null"),
    ("nnunet", without("labels"), "labels: found null"),
    ("nnunet", without("file_ending"), "file_ending: found nothing"),
    ("nnunet", replaced(file_ending=".mha"), "file_ending: found '.mha'; expected one of .nii.gz"),
    ("nnunet", replaced(channel_names={"0": "T1", "2": "T2"}), "channel_names: found"),
    ("nnunet", replaced(labels={"background": 0, "organ": [1, "x"]}), "labels.organ: found [1, \"x\"]"),
    ("nnunet", replaced(labels={"background": 0, "a": [1, 2], "b": [2, 3]}), "found [1, 2] and [2, 3], which overlap"),
    ("nnunet", replaced(labels={"background": 0, "organ": 1, "ignore": 1}), "which marks voxels to ignore"),
    ("nnunet", copy("imagesTr/case1_0001.nii.gz", "imagesTr/case1_0002.nii.gz"), "unexpected _0002"),
    ("nnunet", copy("imagesTr/case1_0001.nii.gz", "imagesTr/case9.nii.gz"), "a channel number at the end (_0000)"),
    ("msd", replaced(training="x"), "training: found str; expected a list"),
    ("msd", replaced(training=[]), "training: found no image"),
    ("msd", replaced(training=[{"label": "x"}]), "training[0].image: found None"),
    ("msd", replaced(training=["imagesTr/a.nii.gz", "./imagesTr/a.nii.gz"]), "case 'a' again"),
    ("msd", replaced(training=["../outside.nii.gz"]), "training[0].image: found '../outside.nii.gz', which leads out"),
    ("msd", replaced(training=["/etc/x.nii.gz"]), "which leads out of the dataset"),
    ("msd", replaced(training=["imagesTr/\0.nii.gz"]), "training[0].image: found"),
    ("plain", copy("images/a.nii.gz", "images/\udcff.nii.gz"), "name: found bytes that are no UTF-8"),
    ("plain", text('{"labels": {"organ": ' + "1" * 5000 + "}}"), "valid JSON"),
    ("msd", link_out("imagesTr/c.nii.gz"), "training[2].image: found './imagesTr/c.nii.gz', which leads out"),
    ("msd", replaced(labels={"background": 0, "organ": 1}), "labels.organ: found 1; expected \"value\": \"name\""),
    ("msd", replaced(labels={"0": "background"}), "no foreground class"),
    ("msd", replaced(modality="MRI"), "modality: found \"MRI\""),
    ("msd", copy("labelsTr/a.nii.gz", "labelsTr/zz.nii.gz"), "a label without image"),
]  # fmt: skip
BUILDERS = {"plain": plain_dataset, "nnunet": nnunet_dataset, "msd": msd_dataset}


@pytest.mark.parametrize(("layout", "fault", "words"), DATASET_FAULTS, ids=[row[2][:40] for row in DATASET_FAULTS])
def test_fault_of_a_dataset_is_refused(tmp_path: Path, layout: str, fault, words: str) -> None:
    root = BUILDERS[layout](tmp_path / "data")
    assert find_cohort(root).problems == ()
    fault(root)
    try:
        problems = find_cohort(root).problems
    except InputError as error:
        problems = error.problems
    refused = [str(problem) for problem in problems if problem.severity == "refuse"]
    assert any(words in problem for problem in refused), refused


DATASET_WARNINGS = [
    ("plain", copy("labels/a.nii.gz", "images/notes.txt"), "1 files of other kinds (notes.txt)", 3),
    ("plain", copy("labels/a.nii.gz", "images/._a.nii.gz"), "macOS", 3),
    ("msd", replaced(training=["./imagesTr/._a.nii.gz", "./imagesTr/b.nii.gz"], labels={"1": "x"}), "macOS", 1),
    ("msd", unlink("labelsTr/a.nii.gz"), "no file a.nii.gz", 4),
    ("msd", copy("imagesTr/a.nii.gz", "imagesTr/new.nii.gz"), "1 images that 'training' does not list", 4),
]


@pytest.mark.parametrize(("layout", "fault", "words", "cases"), DATASET_WARNINGS)
def test_oddity_of_a_dataset_is_a_warning(tmp_path: Path, layout: str, fault, words: str, cases: int) -> None:
    root = BUILDERS[layout](tmp_path / "data")
    fault(root)
    cohort = find_cohort(root)
    assert all(problem.severity == "warn" for problem in cohort.problems)
    assert any(words in str(problem) for problem in cohort.problems)
    assert len(cohort.cases) == cases


def test_a_dataset_reached_through_a_link_is_read(tmp_path: Path) -> None:
    plain_dataset(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "images" / "z.nii.gz").symlink_to("a.nii.gz")  # within the dataset: allowed
    cohort = find_cohort(tmp_path / "link")
    assert ids(cohort.cases) == ["a", "b", "c", "z"]
    assert cohort.problems == ()


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found nothing; expected a dataset folder"):
        find_cohort(tmp_path / "none")


def test_read_ids(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\r\n# comment\n b \na\n")
    assert read_ids(path) == ["a", "b"]
    path.write_text("# nothing\n")
    with pytest.raises(InputError, match="found none; expected one case id a line"):
        read_ids(path)
    with pytest.raises(InputError, match="No such file"):
        read_ids(tmp_path / "none.txt")


def test_keep_labelled_names_unknown_and_unlabelled_ids(tmp_path: Path) -> None:
    cohort = find_cohort(nnunet_dataset(tmp_path))
    kept = keep_labelled(cohort, ["case1"])
    assert ids(kept.labelled) == ["case1"]
    assert len(kept.cases) == 3
    with pytest.raises(InputError) as caught:
        keep_labelled(cohort, ["caze0", "case2", "case1"], "ids.txt")
    first, second = map(str, caught.value.problems)
    assert "Did you mean 'case0'?" in first
    assert "'case2', which has no label" in second
