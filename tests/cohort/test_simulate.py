"""The simulated cohort: real anatomy, smooth invertible deformations, truly absent labels, reproducible."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from foveate.cohort import simulate
from foveate.cohort.layouts import find_cohort
from foveate.errors import InputError

pytest.importorskip("nilearn", reason="the template comes with nilearn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("simulated") / "cohort"
    simulate.simulate_cohort(root, labelled=2, unlabelled=2, test=1, seed=3)
    return root


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def array(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_unlabelled_subjects_have_no_label_file(folder: Path) -> None:
    assert names(folder / "train" / "images") == [f"subject_00{i}.nii.gz" for i in range(4)]
    assert names(folder / "train" / "labels") == ["subject_000.nii.gz", "subject_001.nii.gz"]
    assert names(folder / "test" / "images") == names(folder / "test" / "labels") == ["subject_004.nii.gz"]


def test_the_folder_is_a_dataset_like_any_other(folder: Path) -> None:
    cohort = find_cohort(folder / "train")
    assert cohort.classes == {"grey matter": 1, "white matter": 2}
    assert len(cohort.labelled) == len(cohort.unlabelled) == 2
    assert not cohort.problems


def test_a_subject_depends_on_the_seed_and_its_number_only(folder: Path, tmp_path: Path) -> None:
    simulate.simulate_cohort(tmp_path / "again", labelled=1, unlabelled=1, test=0, seed=3)
    simulate.simulate_cohort(tmp_path / "other", labelled=1, unlabelled=0, test=0, seed=4)
    for name in ("images/subject_000.nii.gz", "labels/subject_000.nii.gz", "images/subject_001.nii.gz"):
        np.testing.assert_array_equal(array(tmp_path / "again" / "train" / name), array(folder / "train" / name))
    label = "train/labels/subject_000.nii.gz"
    assert (array(tmp_path / "other" / label) != array(folder / label)).mean() > 0.05


def test_deformations_do_not_fold() -> None:
    for number in range(5):
        moved = simulate._displacement(np.random.default_rng([0, number]))  # [3, *S] mm
        jacobian = np.stack([np.stack(np.gradient(c, simulate.SPACING)) for c in moved], axis=0)  # [3, 3, *S]
        determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(3))
        assert determinant.min() > 0
        assert np.linalg.norm(moved, axis=0).max() > 4  # and yet the brain does move


def test_labels_are_the_templates_tissues_in_place(folder: Path) -> None:
    anatomy = simulate.load_anatomy()
    _, grey, white, _ = anatomy.maps
    template = np.stack([1 - grey - white, grey, white]).argmax(axis=0)
    for path in sorted((folder / "train" / "labels").iterdir()):
        label = nib.load(path)
        values = np.asarray(label.dataobj)
        assert values.dtype == np.uint8
        assert set(np.unique(values)) == {0, 1, 2}
        for tissue in (simulate.GREY, simulate.WHITE):
            litres = (values == tissue).sum() * simulate.SPACING**3 / 1e6
            assert litres == pytest.approx((template == tissue).sum() / 1e6, rel=0.35)
            centre = nib.affines.apply_affine(label.affine, np.argwhere(values == tissue).mean(axis=0))
            expected = np.argwhere(template == tissue).mean(axis=0) + anatomy.origin
            assert np.linalg.norm(centre - expected) < 12  # mm: shift, head size and deformation are smaller


def test_images_show_their_labels_and_differ_in_contrast(folder: Path) -> None:
    ratios = []
    for path in sorted((folder / "train" / "labels").iterdir()):
        image, label = nib.load(folder / "train" / "images" / path.name), array(path)
        np.testing.assert_array_equal(image.affine, nib.load(path).affine)
        values = np.asarray(image.dataobj)
        rest, grey, white = (values[label == tissue].mean() for tissue in range(3))
        assert rest < grey < white
        ratios.append(grey / white)
    assert abs(ratios[0] - ratios[1]) > 0.01


def test_a_folder_with_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="new or empty folder"):
        simulate.simulate_cohort(tmp_path, labelled=1, unlabelled=0, test=0)
    assert names(tmp_path) == ["mine.txt"]
