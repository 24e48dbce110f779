"""Nobody is trained on what is scored; every layout becomes a dataset that training reads alike."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from made import dataset, ids
from PIL import Image

from foveate.bench.pools import read_pools, write_dataset
from foveate.cohort.check import check
from foveate.errors import InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cohort"))
import scans


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_training_and_scored_datasets_share_no_case_and_follow_the_lists(tmp_path: Path) -> None:
    data = dataset(tmp_path / "toy")
    pools = read_pools(data, ids(tmp_path / "s.txt", "c6", "c7"), ids(tmp_path / "w.txt", "c5"))
    write_dataset(pools.train, tmp_path / "train")
    write_dataset(pools.scored, tmp_path / "scored")
    for part in ("images", "labels"):
        assert names(tmp_path / "train" / part) == {f"c{i}.nii.gz" for i in range(5)}
        assert names(tmp_path / "scored" / part) == {"c6.nii.gz", "c7.nii.gz"}
    # Another list: what does not belong any more is gone.
    pools = read_pools(data, ids(tmp_path / "s.txt", "c0"))
    write_dataset(pools.scored, tmp_path / "scored")
    assert names(tmp_path / "scored" / "images") == {"c0.nii.gz"}


def test_classes_are_those_told_or_those_of_the_training_labels(tmp_path: Path) -> None:
    data, score = dataset(tmp_path / "toy"), ids(tmp_path / "s.txt", "c7")
    assert read_pools(data, score).classes == {"class 1": 1, "class 2": 2}
    pools = read_pools(data, score, classes={"front": 1, "back": 2})
    write_dataset(pools.train, tmp_path / "train")
    report = check(tmp_path / "train")
    assert report.ok
    assert report.cohort.classes == {"front": 1, "back": 2}
    assert pools.shows(pools.train.labelled[0]) == {"front", "back"}


@pytest.mark.parametrize("layout", ["nnunet", "msd", "plain"])
def test_every_layout_is_laid_out_alike(tmp_path: Path, layout: str) -> None:
    make = {"nnunet": scans.nnunet_dataset, "msd": scans.msd_dataset, "plain": scans.plain_dataset}[layout]
    data = make(tmp_path / "data")
    before = check(data)
    score = ids(tmp_path / "s.txt", before.cohort.labelled[0].id)
    pools = read_pools(data, score)
    write_dataset(pools.train, tmp_path / "train")
    after = check(tmp_path / "train")
    assert after.ok
    assert [case.id for case in after.cohort.cases] == [case.id for case in before.cohort.cases][1:]
    assert len(after.cohort.labelled) == len(before.cohort.labelled) - 1
    assert after.cohort.channels == before.cohort.channels
    assert after.cohort.classes == before.cohort.classes
    for case in after.cohort.cases:
        assert after.facts[case.id].content == before.facts[case.id].content


def test_a_replaced_scan_is_noticed(tmp_path: Path) -> None:
    data, score = dataset(tmp_path / "toy", 3), ids(tmp_path / "s.txt", "c2")
    write_dataset(read_pools(data, score).train, tmp_path / "train")
    new = np.zeros((16, 16, 17), np.int16)
    (data / "images" / "c0.nii.gz").unlink()
    nib.save(nib.Nifti1Image(new, np.eye(4)), data / "images" / "c0.nii.gz")
    write_dataset(read_pools(data, score).train, tmp_path / "train")
    assert nib.load(tmp_path / "train" / "images" / "c0.nii.gz").shape == new.shape


def test_patients_go_along_and_none_is_on_both_sides(tmp_path: Path) -> None:
    data, score = dataset(tmp_path / "toy", 4), ids(tmp_path / "s.txt", "c2", "c3")
    (data / "patients.csv").write_text("case,patient\nc0,p\nc1,p\nc2,q\nc3,q\n")
    pools = read_pools(data, score)
    write_dataset(pools.train, tmp_path / "train")
    assert {case.patient for case in check(tmp_path / "train").cohort.cases} == {"p"}
    with pytest.raises(InputError, match="both sides"):
        read_pools(data, ids(tmp_path / "s.txt", "c3"))
    pools = read_pools(data, ids(tmp_path / "s.txt", "c3"), ids(tmp_path / "w.txt", "c2"))
    assert [case.id for case in pools.train.cases] == ["c0", "c1"]


def test_a_dataset_of_another_task_is_refused_by_name(tmp_path: Path) -> None:
    for number, name in enumerate(("healthy", "ill")):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("L", (12, 15), number).save(tmp_path / "data" / name / f"p{number}.png")
    with pytest.raises(InputError, match="task: found classification; expected segmentation"):
        read_pools(tmp_path / "data", ids(tmp_path / "s.txt", "p0"))


def test_every_problem_of_the_lists_is_named_at_once(tmp_path: Path) -> None:
    data = dataset(tmp_path / "toy", 4)
    (data / "labels" / "c1.nii.gz").unlink()
    with pytest.raises(InputError) as caught:
        read_pools(data, ids(tmp_path / "s.txt", "c1", "c2", "c9"), ids(tmp_path / "w.txt", "c2", "x"))
    assert len(caught.value.problems) == 4
    for word in ("'c9'", "'x'", "no label", "leave out"):
        assert word in str(caught.value)


def test_a_class_that_no_scored_case_shows_is_refused_by_name(tmp_path: Path) -> None:
    data = dataset(tmp_path / "toy")
    pools = read_pools(data, ids(tmp_path / "s.txt", "c6", "c7"))
    pools.refuse_unscored()
    for name in ("c6", "c7"):
        label = nib.load(data / "labels" / f"{name}.nii.gz")
        array = np.asarray(label.dataobj)
        nib.save(nib.Nifti1Image(np.where(array == 2, 0, array).astype(np.uint8), label.affine), label.get_filename())
    with pytest.raises(InputError, match="no scored case with class 2"):
        read_pools(data, ids(tmp_path / "s.txt", "c6", "c7")).refuse_unscored()
