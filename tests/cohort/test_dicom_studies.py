"""Folders of DICOM studies: what is a modality of which patient, what is not, and that no name or UID gets out."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dicoms import AFFINE, NORMAL, stored, write_series
from foveate.batches.prepare import cache_key
from foveate.cohort.check import check
from foveate.cohort.facts import file_hash
from foveate.cohort.layouts import find_cohort
from foveate.metrics.pairs import find_references

SHAPE = (5, 6, 4)


def study(root: Path, name: str, series: tuple[str, ...], uid: str, patient: str) -> Path:
    for number, called in enumerate(series):
        values = stored(seed=sum(map(ord, uid + called)))
        write_series(root / name / called, values, uid=f"{uid}.{number + 1}", PatientID=patient)
    return root / name


def labelled(root: Path, name: str) -> None:
    (root / "labels").mkdir(exist_ok=True)
    array = np.zeros(SHAPE, np.uint8)
    array[1:4, 2:5, 1:3] = 1
    nib.save(nib.Nifti1Image(array, AFFINE), root / "labels" / f"{name}.nii.gz")


def folders(case) -> list[str]:
    return [path.name for path in case.images]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two labelled patients with two modalities, one with a crop too, and an unlabelled one without FLAIR."""
    study(tmp_path, "Study1", ("12-T1post-05670", "36-FLAIR_reg-7"), "1.2.1", "A")
    write_series(tmp_path / "Study1" / "13_Crop", stored(3), uid="1.2.1.7", PatientID="A")
    study(tmp_path, "Study2", ("11-T1post-18670", "2-FLAIRreg"), "1.2.2", "B")
    study(tmp_path, "Study3", ("9_T1post",), "1.2.3", "C")
    labelled(tmp_path, "Study1")
    labelled(tmp_path, "Study2")
    return tmp_path


def test_series_on_one_grid_are_modalities_of_a_patient(root: Path) -> None:
    report = check(root)
    cohort = report.cohort
    assert (cohort.layout, cohort.dims, cohort.channels) == ("DICOM", 3, ("FLAIR_reg", "T1post"))
    assert [folders(case) for case in cohort.cases] == [
        ["36-FLAIR_reg-7", "12-T1post-05670"],
        ["2-FLAIRreg", "11-T1post-18670"],
        ["9_T1post"],
    ]
    assert [(case.id, case.labelled, case.missing) for case in cohort.cases] == [
        ("Study1", True, ()),
        ("Study2", True, ()),
        ("Study3", False, (0,)),
    ]
    assert report.ok, [str(problem) for problem in report.problems]
    assert [(Path(p.file).name, p.field) for p in report.problems if p.case == "Study1"] == [("13_Crop", "grid")]
    assert any(problem.field == "modality FLAIR_reg" for problem in report.problems)
    assert report.facts["Study3"].has(1)
    assert not report.facts["Study3"].has(0)


def test_another_frame_of_reference_or_place_is_another_image(root: Path) -> None:
    write_series(root / "Study2" / "2-FLAIRreg", uid="1.2.2.2", PatientID="B", FrameOfReferenceUID="1.2.77")

    def away(data, number):
        data.ImagePositionPatient = list(data.ImagePositionPatient + 0.3 * NORMAL)

    write_series(root / "Study1" / "36-FLAIR_reg-7", stored(), away, uid="1.2.1.2", PatientID="A")
    cohort = find_cohort(root)
    assert {case.id: len(case.images) for case in cohort.cases} == {"Study1": 1, "Study2": 1, "Study3": 1}
    said = [problem.found for problem in cohort.problems if problem.field == "grid"]
    assert any("in another frame of reference" in found for found in said)
    assert any("0.30 mm away" in found for found in said)


def test_dataset_json_says_which_modalities_count_and_in_which_order(root: Path) -> None:
    names = {"channel_names": {"0": "T1post", "1": "FLAIRreg"}, "labels": {"background": 0, "lesion": 1}}
    (root / "dataset.json").write_text(json.dumps(names))
    cohort = find_cohort(root)
    assert cohort.channels == ("T1post", "FLAIRreg")
    assert folders(cohort.cases[0]) == ["12-T1post-05670", "36-FLAIR_reg-7"]
    assert [problem.found for problem in cohort.problems] == ["a series called Crop"]
    (root / "dataset.json").write_text(json.dumps({**names, "channel_names": {"0": "Crop"}}))
    assert [(case.id, folders(case)) for case in find_cohort(root).cases] == [("Study1", ["13_Crop"])]


def test_folders_of_one_series_are_scans_of_one_modality(tmp_path: Path) -> None:
    for number in range(3):
        write_series(tmp_path / f"patient{number}", stored(seed=number), uid=f"1.2.{number}.1", Modality="CT")
    cohort = find_cohort(tmp_path)
    assert cohort.channels == ("CT",)
    assert [case.id for case in cohort.cases] == ["patient0", "patient1", "patient2"]
    # All say one PatientID, so that they are one patient, until patients.csv knows better.
    assert {case.patient for case in cohort.cases} == {"patient0"}
    assert [(problem.field, problem.severity) for problem in cohort.problems] == [("PatientID", "warn")]
    lines = ["case,patient", *(f"patient{number},{number}" for number in range(3))]
    (tmp_path / "patients.csv").write_text("\n".join(lines))
    assert [case.patient for case in find_cohort(tmp_path).cases] == ["0", "1", "2"]


def test_studies_of_a_patient_below_a_folder_of_theirs(tmp_path: Path) -> None:
    for number in (1, 2):
        study(tmp_path / "P", f"Study{number}", ("T1", "T2"), f"1.2.{number}", "A")
    labelled(tmp_path, "P_Study1")
    cohort = find_cohort(tmp_path)
    assert [(case.id, case.labelled, case.patient) for case in cohort.cases] == [
        ("P_Study1", True, "P_Study1"),
        ("P_Study2", False, "P_Study1"),
    ]


def test_plain_folders_take_series_for_images(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        write_series(tmp_path / "images" / name, stored(seed=number))
    labelled(tmp_path, "a")
    report = check(tmp_path)
    assert report.cohort.layout == "plain"
    assert [(case.id, case.labelled) for case in report.cohort.cases] == [("a", True), ("b", False)]
    assert report.ok


def test_series_of_one_patient_in_plain_folders_stay_together(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        write_series(tmp_path / "images" / name, stored(seed=number), uid=f"1.2.{number}", PatientID="PC"[number == 2])
        labelled(tmp_path, name)
    patients = [case.patient for case in check(tmp_path).cohort.cases]
    assert patients[0] == patients[1] != patients[2]
    assert find_references(tmp_path).patients == dict(zip("abc", patients, strict=True))
    (tmp_path / "patients.csv").write_text("case,patient\na,1\nb,2\nc,2\n")  # whoever writes it knows better
    assert [case.patient for case in check(tmp_path).cohort.cases] == ["1", "2", "2"]


@pytest.mark.parametrize("layout", ["table", "boxes", "class folders"])
def test_series_of_one_patient_stay_together_whatever_their_labels_are(tmp_path: Path, layout: str) -> None:
    """The validation split goes by patients: nobody may stand on both sides of it."""
    folders = ["x", "x", "y"] if layout == "class folders" else ["images"] * 3
    for number, (folder, name) in enumerate(zip(folders, "abc", strict=True)):
        write_series(tmp_path / folder / name, stored(seed=number), uid=f"1.2.{number}", PatientID="PC"[number == 2])
    if layout == "table":
        (tmp_path / "labels.csv").write_text("case,value\na,1\nb,2\nc,3\n")
    elif layout == "boxes":
        entries = [{"id": number, "file_name": name} for number, name in enumerate("abc")]
        (tmp_path / "annotations.json").write_text(json.dumps({"images": entries, "annotations": [], "categories": []}))
    else:
        for folder in "xy":  # series alone would be taken for studies
            nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), AFFINE), tmp_path / folder / "n.nii.gz")
    cohort = find_cohort(tmp_path)
    assert cohort.layout == layout
    patients = {case.id[-1]: case.patient for case in cohort.cases}
    assert patients["a"] == patients["b"] != patients["c"]


def test_a_spoilt_series_is_refused_in_its_study(root: Path) -> None:
    next((root / "Study1" / "36-FLAIR_reg-7").glob("*_2.dcm")).unlink()
    report = check(root)
    assert not report.ok
    refused = [problem for problem in report.problems if problem.severity == "refuse"]
    assert [(Path(problem.file).name, problem.case) for problem in refused] == [("36-FLAIR_reg-7", "Study1")]
    assert "1 slice missing" in refused[0].found


def test_ambiguous_studies_are_refused(root: Path, tmp_path: Path) -> None:
    write_series(root / "Study1" / "14_T1post", stored(seed=9), uid="1.2.1.8", PatientID="Z")
    (root / "labels" / "Study9.nii.gz").write_bytes(b"")
    fields = {problem.field: problem.found for problem in find_cohort(root).problems if problem.severity == "refuse"}
    assert fields == {
        "PatientID": "2 patients in one study",
        "modality": "T1post, as 12-T1post-05670 is called too",
        "image": "a label without image",
    }


def test_localisers_are_left_out(root: Path) -> None:
    kind = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(root / "Study1" / "1_scout", uid="1.2.1.9", PatientID="A", ImageType=kind)
    cohort = find_cohort(root)
    assert len(cohort.cases[0].images) == 2
    assert any(problem.found == "a localiser" and problem.severity == "warn" for problem in cohort.problems)


def test_a_link_out_of_the_dataset_is_refused(root: Path, tmp_path_factory) -> None:
    outside = write_series(tmp_path_factory.mktemp("elsewhere") / "T2", uid="1.2.1.5")
    (root / "Study1" / "T2").symlink_to(outside)
    assert [problem.field for problem in find_cohort(root).problems if problem.severity == "refuse"] == ["link"]


def test_a_changed_slice_changes_hash_and_cache(root: Path) -> None:
    series = root / "Study3" / "9_T1post"
    key, digest = cache_key((series,), PLAN, "image"), file_hash([series])
    assert (cache_key((series,), PLAN, "image"), file_hash([series])) == (key, digest)
    file = next(series.iterdir())
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert cache_key((series,), PLAN, "image") != key
    assert file_hash([series]) != digest


class PLAN:
    """What the key asks of a plan."""

    fits = False

    @staticmethod
    def model_dump(**_: object) -> dict:
        return {}


@pytest.mark.parametrize("name", ["1.2.840.113619.2", "DOE_JOHN T1", "x.", "a:b", "ü"])
def test_names_that_tell_too_much_or_are_no_file_names_are_hashed(tmp_path: Path, name: str) -> None:
    for number, folder in enumerate((name, "plain")):
        write_series(tmp_path / folder, uid=f"1.2.{number}.1", PatientName="Doe^John", SeriesDescription="T1 of Doe")
    found = find_cohort(tmp_path)
    (hashed,) = {case.id for case in found.cases} - {"plain"}
    assert hashed.startswith("study-")
    assert len(hashed) == 18
    assert found.channels == ("MR",)


def test_the_real_studies(shared_data: Path) -> None:
    if not (shared_data / "dicom").is_dir():
        pytest.skip(f"no DICOM studies in {shared_data}")
    cohort = find_cohort(shared_data / "dicom")
    assert cohort.channels == ("FLAIRreg", "T1post")
    assert [(case.id, len(case.images)) for case in cohort.cases] == [("Study1", 2), ("Study3", 2)]
    crops = [Path(problem.file).name for problem in cohort.problems if problem.field == "grid"]
    assert crops == ["13_HCropVolume", "11_HCropVolume"]
