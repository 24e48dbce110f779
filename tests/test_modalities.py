"""Several modalities, of which some scans lack one: checked, trained on and predicted with, by the public names."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import foveate
from foveate.cohort.check import check
from foveate.cohort.fingerprint import fingerprint
from foveate.cohort.plan import ChannelPlan, Plan
from foveate.config import NetworkConfig
from foveate.errors import InputError
from foveate.io import read_image
from foveate.layers import present
from foveate.networks import build_network
from foveate.predict.files import predict_files
from foveate.predict.predictor import Predictor
from foveate.tasks import build_task

NAMES = ("T1", "T2")
SHAPE = (14, 12, 13)
AFFINE = np.diag([1.5, 1.5, 1.5, 1])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def put_scans(folder: Path, count: int, labels: Path | None = None) -> None:
    """Balls, bright in T1 and dark in T2."""
    for number in range(count):
        random = np.random.default_rng(number)
        centre = [random.uniform(0.4, 0.6) * n for n in SHAPE]
        ball = sum((a - c) ** 2 for a, c in zip(np.indices(SHAPE), centre, strict=True)) < 16
        for channel, contrast in enumerate((60, -60)):
            image = 100 + contrast * ball + random.normal(0, 5, SHAPE)
            save(folder / f"c{number}_{channel:04d}.nii.gz", image.astype(np.float32))
        if labels:
            save(labels / f"c{number}.nii.gz", ball.astype(np.uint8))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four labelled cases: c1 without T2, c2 without T1."""
    root = tmp_path / "data"
    put_scans(root / "imagesTr", 4, root / "labelsTr")
    (root / "imagesTr" / "c1_0001.nii.gz").unlink()
    (root / "imagesTr" / "c2_0000.nii.gz").unlink()
    about = {
        "channel_names": {str(number): name for number, name in enumerate(NAMES)},
        "labels": {"background": 0, "ball": 1},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def run_folder(path: Path) -> Path:
    plan = Plan(
        dims=3,
        spacing=(1.5,) * 3,
        patch=(12,) * 3,
        batch=4,
        channels=tuple(ChannelPlan(name=name, normalisation="zscore") for name in NAMES),
        classes={"ball": 1},
        widths=(6, 8),
        strides=((1,) * 3, (2,) * 3),
    )
    path.mkdir()
    plan.write(path / "plan.json")
    return path


def test_the_check_counts_missing_modalities_and_measures_the_others(data: Path) -> None:
    report = check(data)
    assert [case.missing for case in report.cohort.cases] == [(), (1,), (0,), ()]
    assert report.ok
    for problem, name, case in zip(report.problems, NAMES, ("c2", "c1"), strict=True):
        assert problem.field == f"modality {name}"
        assert problem.found == f"missing in 1 case of 4 ({case})"
        assert "--network fusion_unet" in problem.fix
    measured = fingerprint(report)
    assert np.isfinite([channel.mean for channel in measured.channels]).all()
    assert np.isfinite(report.table()["intensity"]["T2"]["50"]).all()
    both = [nib.load(data / "imagesTr" / f"c{n}_0001.nii.gz").get_fdata().mean() for n in (0, 2, 3)]
    assert measured.channels[1].mean == pytest.approx(np.mean(both), rel=1e-6)


def test_a_network_that_needs_all_modalities_is_refused_with_the_remedy(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        foveate.train(data, tmp_path / "run", steps=1, device="cpu", quiet=True)
    assert len(caught.value.problems) == 2
    assert "modality T2: found missing in 1 case of 4 (c1)" in str(caught.value)
    assert "Train with --network fusion_unet" in str(caught.value)


def test_a_modality_that_no_case_has_is_refused_whatever_the_network(data: Path) -> None:
    for number in (0, 2, 3):
        (data / "imagesTr" / f"c{number}_0001.nii.gz").unlink()
    (data / "labelsTr" / "c2.nii.gz").unlink()
    refused = [str(problem) for problem in check(data).problems if problem.severity == "refuse"]
    assert len(refused) == 1
    assert "modality T2: found missing in 3 cases of 3" in refused[0]
    assert "Remove it from channel_names" in refused[0]


def test_modalities_on_different_grids_are_refused_with_both_files(data: Path) -> None:
    save(data / "imagesTr" / "c0_0001.nii.gz", np.ones((14, 12, 9), np.float32))
    save(data / "imagesTr" / "c3_0001.nii.gz", np.ones(SHAPE, np.float32), np.diag([1.5, 1.5, 2, 1]))
    refused = [str(problem) for problem in check(data).problems if problem.severity == "refuse"]
    assert len(refused) == 2
    assert "c0_0001.nii.gz: shape: found 14 x 12 x 9; expected 14 x 12 x 13" in refused[0]
    assert "c3_0001.nii.gz: affine: found a corner lies" in refused[1]


def test_it_trains_with_what_is_there_and_predicts_with_any_part(data: Path, tmp_path: Path) -> None:
    settings = ["augment.elastic_p=0", "augment.affine_p=0", "optimiser.warmup_steps=5", "optimiser.ema=0.8"]
    run = foveate.train(
        data,
        run_folder(tmp_path / "run"),
        steps=60,
        network="fusion_unet",
        device="cpu",
        set=settings,
        quiet=True,
    )
    put_scans(tmp_path / "new", 3, tmp_path / "truth")
    (tmp_path / "new" / "c1_0001.nii.gz").unlink()
    (tmp_path / "new" / "c2_0000.nii.gz").unlink()
    written = predict_files(run, tmp_path / "new", tmp_path / "out", device="cpu", views=1)
    assert [path.name for path in written] == ["c0.nii.gz", "c1.nii.gz", "c2.nii.gz"]
    for path in written:
        label, truth = (np.asarray(nib.load(p).dataobj) for p in (path, tmp_path / "truth" / path.name))
        assert 2 * (label * truth).sum() / (label.sum() + truth.sum()) > 0.7, path
    # One file alone, the other absent; and an array with NaN in its place: the same answer.
    predictor = foveate.load(run, device="cpu")
    single = tmp_path / "new" / "c1_0000.nii.gz"
    predict_files(predictor, single, tmp_path / "one")
    labels = np.asarray(nib.load(tmp_path / "one" / "c1.nii.gz").dataobj)
    image = nib.load(single).get_fdata(dtype=np.float32)
    array = np.stack([image, np.full_like(image, np.nan)])
    np.testing.assert_array_equal(predictor.predict(array, affine=AFFINE), labels)
    with pytest.raises(InputError, match="modalities: found none that is there"):
        predictor.predict(np.full_like(array, np.nan), affine=AFFINE)


def test_no_window_or_view_shows_a_missing_modality_as_zeros(tmp_path: Path) -> None:
    plan = Plan.read(run_folder(tmp_path / "run") / "plan.json").model_copy(update={"patch": (16, 8, 16)})
    task = build_task(plan)
    torch.manual_seed(0)
    predictor = Predictor(build_network(NetworkConfig(name="fusion_unet"), plan, task.channels), task, plan)
    shown = []
    predictor.network.register_forward_pre_hook(lambda _, inputs: shown.append(present(inputs[0])))
    array = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    array[1] = np.nan
    predictor.predict(array, affine=AFFINE, views=2)
    found = torch.cat(shown)
    assert len(found) > 3
    assert (found == torch.tensor([True, False])).all()


def test_a_model_that_needs_all_modalities_says_which_is_missing(tmp_path: Path) -> None:
    plan = Plan.read(run_folder(tmp_path / "run") / "plan.json")
    task = build_task(plan)
    predictor = Predictor(build_network(NetworkConfig(), plan, task.channels), task, plan)
    for number, name in enumerate(NAMES):
        put_scans(tmp_path / name, 1)
        (tmp_path / name / f"c0_{number:04d}.nii.gz").unlink()
        with pytest.raises(InputError, match=rf"found no {name} \(_000{number}\).* fusion_unet"):
            predict_files(predictor, tmp_path / name, tmp_path / "out")


def test_a_single_file_may_hold_all_channels_whatever_its_name(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    save(tmp_path / "c0_0000.nii.gz", np.moveaxis(array, 0, -1))
    np.testing.assert_array_equal(read_image([tmp_path / "c0_0000.nii.gz"], 2, (1,)).array, array)
