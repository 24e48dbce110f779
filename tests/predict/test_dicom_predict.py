"""DICOM folders in, NIfTI masks on their grids out, and nothing of the patient in any file or line."""

import gzip
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from test_predict_files import model
from torch import nn

from dicoms import AFFINE, stored, write_series
from foveate.cli import main
from foveate.cohort.layouts import find_cohort
from foveate.cohort.plan import ChannelPlan
from foveate.errors import InputError
from foveate.predict.files import predict_files
from foveate.predict.predictor import Predictor


def expected(seed: int) -> np.ndarray:
    """Class 1 where the value is positive."""
    return (np.moveaxis(stored(seed=seed), 0, 1) > 0).astype(np.uint8)


def assert_mask(path: Path, labels: np.ndarray) -> None:
    image = nib.load(path)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels)


class Whole(nn.Module):
    """Class 1 where the sum of the channels that are there is positive."""

    takes_missing = True

    def forward(self, x):
        return torch.cat([torch.zeros_like(x[:, :1]), x.nansum(1, keepdim=True)], 1)


def named(*names: str, network: nn.Module | None = None) -> Predictor:
    """A predictor of channels with these names, at the voxel size of the series."""
    plain = model()
    channels = tuple(ChannelPlan(name=name, normalisation="ct", lower=-9999, upper=9999) for name in names)
    plan = plain.plan.model_copy(update={"channels": channels, "spacing": (1.25, 0.75, 2.5)})
    return Predictor(network or plain.network, plain.task, plan, precision="float32")


def test_a_series_to_a_file_or_a_folder(tmp_path: Path) -> None:
    series = write_series(tmp_path / "in" / "12-T1", stored())
    assert predict_files(named("any"), series, tmp_path / "x.nii") == [tmp_path / "x.nii"]
    assert_mask(tmp_path / "x.nii", expected(0))
    assert predict_files(named("any"), series, tmp_path / "out") == [tmp_path / "out" / "12-T1.nii.gz"]
    assert_mask(tmp_path / "out" / "12-T1.nii.gz", expected(0))


def test_folders_of_series_for_one_channel(tmp_path: Path) -> None:
    for number, folder in enumerate(("Study1/T1", "Study1/FLAIR", "Study2/T1")):
        write_series(tmp_path / "in" / folder, stored(seed=number), uid=f"1.2.{folder[5]}.{number}")
    written = predict_files(named("any"), tmp_path / "in", tmp_path / "all")
    assert [path.name for path in written] == ["Study1_FLAIR.nii.gz", "Study1_T1.nii.gz", "Study2.nii.gz"]
    for path, seed in zip(written, (1, 0, 2), strict=True):
        assert_mask(path, expected(seed))
    written = predict_files(named("t1"), tmp_path / "in", tmp_path / "named")
    assert [path.name for path in written] == ["Study1.nii.gz", "Study2.nii.gz"]
    written = predict_files(named("any"), tmp_path / "in" / "Study1", tmp_path / "one")
    assert [path.name for path in written] == ["FLAIR.nii.gz", "T1.nii.gz"]


@pytest.mark.parametrize(
    "studies",
    [
        {"A/Hippo": 1, "B/Hippo": 2},
        {"P/Study1/Hippo": 1, "P/Study2/Hippo": 2},
        {"scan1": 1, "scan2": 2},
        {"images/a": 1, "images/b": 1},
        {"A/Hippo": 1, "A/Scout": 1, "B/Hippo": 2},
    ],
)
def test_masks_are_called_as_the_cases_of_training(tmp_path: Path, studies: dict[str, int]) -> None:
    """So that evaluate finds the label of each, whatever the folders of series are called."""
    for number, (folder, study) in enumerate(studies.items()):
        scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]} if "Scout" in folder else {}
        write_series(tmp_path / "in" / folder, stored(seed=number), uid=f"1.2.{study}.{number}", **scout)
    cases = [case.id for case in find_cohort(tmp_path / "in").cases]
    assert len(cases) == 2
    written = predict_files(named("any"), tmp_path / "in", tmp_path / "out")
    assert [path.name for path in written] == [f"{case}.nii.gz" for case in cases]


def test_a_spoilt_series_is_said_when_the_others_are_done(tmp_path: Path) -> None:
    for number in range(2):
        write_series(tmp_path / "in" / f"scan{number}", stored(seed=number))
    next((tmp_path / "in" / "scan0").glob("*_1.dcm")).unlink()
    with pytest.raises(InputError, match="1 slice missing") as caught:
        predict_files(named("any"), tmp_path / "in", tmp_path / "out")
    assert [problem.case for problem in caught.value.problems] == ["scan0"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scan1.nii.gz"]


def test_modalities_are_found_by_name_and_may_be_missing(tmp_path: Path) -> None:
    whole = named("T1post", "FLAIRreg", network=Whole())
    for name, series in (("A", ("2-FLAIR_reg", "1-T1post")), ("B", ("7-FLAIRreg-9",))):
        for number, folder in enumerate(series):
            write_series(tmp_path / "in" / name / folder, stored(seed=number), uid=f"1.2.{ord(name)}.{number}")
    written = predict_files(whole, tmp_path / "in", tmp_path / "out")
    assert [path.name for path in written] == ["A.nii.gz", "B.nii.gz"]
    both = np.moveaxis(stored(seed=0).astype(int) + stored(seed=1), 0, 1)
    np.testing.assert_array_equal(np.asarray(nib.load(written[0]).dataobj) == 1, both > 0)
    assert_mask(written[1], expected(0))
    (written,) = predict_files(whole, tmp_path / "in" / "B", tmp_path / "one")  # the study itself
    assert_mask(written, expected(0))
    with pytest.raises(InputError, match="no T1post"):
        predict_files(named("T1post", "FLAIRreg"), tmp_path / "in", tmp_path / "needs_all")
    with pytest.raises(InputError, match="found series called T1post, FLAIR_reg; expected one called CT or PET"):
        predict_files(named("CT", "PET", network=Whole()), tmp_path / "in", tmp_path / "none")


def test_files_and_series_are_not_mixed(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "series")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), AFFINE), tmp_path / "in" / "a.nii.gz")
    with pytest.raises(InputError, match="1 image files and 1 folders"):
        predict_files(named("any"), tmp_path / "in", tmp_path / "out")


CANARY = "Xanthippe"


def secret(data, number) -> None:
    """Names, identifiers and dates, in public, private and nested elements."""
    data.PatientName = f"{CANARY}^Q"
    data.PatientID = data.OtherPatientIDs = f"{CANARY}-4711"
    data.ReferringPhysicianName = data.InstitutionName = data.PatientComments = data.AccessionNumber = CANARY
    data.SeriesDescription = data.StudyDescription = f"head of {CANARY}"
    block = data.private_block(0x0011, f"{CANARY} private", create=True)
    block.add_new(0x01, "LO", CANARY)
    block.add_new(0x02, "PN", CANARY)
    if number == 1:
        data.preamble = b"MZ" + CANARY.encode() + bytes(117)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # of the writer
def test_no_name_and_no_uid_gets_out(tmp_path: Path, capsys) -> None:
    """Check, train and predict by the command line; then every file, name and line is searched."""
    root, out = tmp_path / "data", tmp_path / "made"
    array = np.zeros((5, 6, 4), np.uint8)
    array[1:4, 1:5, 1:3] = 1
    (root / "labels").mkdir(parents=True)
    for number, name in enumerate(("one", "two", "1.2.4711.5", "four")):

        def spoil(data, index, number=number):
            secret(data, index)
            data.PatientID += f" {number}"
            if number == 3:
                data.SeriesInstanceUID = data.StudyInstanceUID = data.FrameOfReferenceUID = "../../40499"

        write_series(root / name, stored(seed=number), spoil, uid=f"1.2.40499.{number}.7")
        if number < 2:
            nib.save(nib.Nifti1Image(array, AFFINE), root / "labels" / f"{name}.nii.gz")
    small = named("MR").plan.model_copy(update={"patch": (8, 8, 8), "classes": {"class 1": 1}})
    (out / "run").mkdir(parents=True)
    small.write(out / "run" / "plan.json")  # keeps the network small
    for arguments in (
        ["check", str(root)],
        ["train", str(root), str(out / "run"), "--steps", "1", "--device", "cpu"],
        ["predict", str(out / "run"), str(root), str(out / "masks"), "--device", "cpu"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert not ended.value.code, capsys.readouterr()
    masks = sorted(path.name for path in (out / "masks").iterdir())
    assert masks[:2] == ["four.nii.gz", "one.nii.gz"]
    assert re.fullmatch(r"study-[0-9a-f]{12}\.nii\.gz", masks[2])
    assert masks[3:] == ["two.nii.gz"]
    said = capsys.readouterr()
    # The folder that is called as a UID is named to the user where it is at fault, and nowhere else.
    texts = [str(path.relative_to(out)) for path in out.rglob("*")]
    files = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    files += [gzip.decompress(path.read_bytes()) for path in out.rglob("*.gz")]
    for canary in (CANARY, "40499", "../.."):
        assert not any(canary in text for text in [*texts, said.out, said.err])
        assert not any(canary.encode() in content for content in files)
    assert not any("1.2.4711.5" in text for text in texts)
    assert not any(b"1.2.4711.5" in content for content in files)
    assert {path.name for path in tmp_path.iterdir()} == {"data", "made"}


@pytest.mark.parametrize("name", ["slice.dcm", "IM0001"])
def test_a_file_of_a_series_is_no_scan(name: str, tmp_path: Path) -> None:
    file = next(write_series(tmp_path / "T1", stored(1)).iterdir()).rename(tmp_path / "T1" / name)
    with pytest.raises(InputError, match=r"found a DICOM file; .* Give its folder"):
        predict_files(named("any"), file, tmp_path / "out")


def test_files_of_a_series_that_are_left_out_are_said(tmp_path: Path) -> None:
    """The mask is of fewer slices than the scan: nobody else tells."""
    series = write_series(tmp_path / "T1", stored(6))
    slices = sorted(series.iterdir(), key=lambda path: path.stem[-1])
    slices[-1].write_bytes(slices[-1].read_bytes()[132:])  # without what makes it a DICOM file, and its suffix
    slices[-1].rename(series / "IM6")
    said: list[str] = []
    (mask,) = predict_files(named("any"), series, tmp_path / "out", note=said.append)
    assert nib.load(mask).shape[2] == 5
    assert len(said) == 1
    assert "1 files that are no DICOM files (IM6)" in said[0]
