"""Preparation keeps the place, the contrast and the labels of a scan, and caches whole files only."""

import errno
import subprocess
import sys
import textwrap
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from foveate.batches import prepare
from foveate.batches.prepare import as_shown, prepare_cohort, prepare_label, prepare_volume
from foveate.cohort.cohort import Case, Cohort
from foveate.cohort.plan import ChannelPlan, Plan
from foveate.errors import InputError
from foveate.files import Unwritable, unwritten
from foveate.io.volume import Volume


def make_plan(spacing=(1.0, 1.0, 1.0), normalisation="zscore", channels=1, **extra):
    dims = len(spacing)
    channel = {"ct": {"lower": -100.0, "upper": 300.0, "mean": 50.0, "std": 80.0}}.get(normalisation, {})
    return Plan(
        dims=dims,
        spacing=spacing,
        patch=(32,) * dims,
        batch=2,
        channels=tuple(ChannelPlan(name=f"c{i}", normalisation=normalisation, **channel) for i in range(channels)),
        classes={"one": 1, "two": 2},
        widths=(8, 16),
        strides=((1,) * dims, (2,) * dims),
        **extra,
    )


def volume(array, spacing=(1.0, 1.0, 1.0), axes="RAS"):
    """``array [*S]`` drawn in RAS order with ``spacing``, stored in the voxel order ``axes``."""
    affine = np.diag([*spacing, 1.0])
    image = nib.Nifti1Image(np.asarray(array, np.float32), affine)
    target = nib.orientations.axcodes2ornt(axes)
    moved = image.as_reoriented(nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), target))
    return Volume(np.asarray(moved.dataobj)[None].copy(), moved.affine)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "PIL"])
def test_orientation_does_not_change_what_is_prepared(axes):
    array = np.random.default_rng(0).normal(size=(13, 9, 17))
    expected, _ = prepare_volume(volume(array, (1, 2, 0.7)), make_plan())
    prepared, grid = prepare_volume(volume(array, (1, 2, 0.7), axes), make_plan())
    np.testing.assert_allclose(prepared, expected, atol=1e-5)
    assert grid.prepared_shape == (13, 18, 12)
    np.testing.assert_allclose(grid.spacing, (1, 1, 0.7 * 17 / 12))
    assert type(grid).from_json(grid.to_json()) == grid


@pytest.mark.parametrize("target", [0.5, 0.8, 1.4, 2.0, 3.3])
def test_resampling_does_not_move_a_blob(target):
    points = np.stack(np.meshgrid(*[np.arange(n) for n in (48, 40, 44)], indexing="ij"))
    centre = np.array([23.3, 19.1, 22.6])
    blob = np.exp(-((points - centre[:, None, None, None]) ** 2).sum(0) / (2 * 4.0**2))
    plan = make_plan((target,) * 3, "ct")
    plan.channels[0].lower, plan.channels[0].upper, plan.channels[0].mean, plan.channels[0].std = 0, 1, 0, 1
    prepared, grid = prepare_volume(volume(blob), plan)
    found = np.array(ndimage.center_of_mass(prepared[0].numpy()))
    in_input = (found + 0.5) * np.array(grid.canonical_shape) / np.array(grid.prepared_shape) - 0.5
    assert np.abs(in_input - centre).max() < 0.05


def test_down_sampling_does_not_alias():
    fine = np.zeros((64, 64, 64))
    fine[::2] = 1  # 1 mm stripes: at 3 mm nothing of them can be seen
    plan = make_plan((3.0, 3.0, 3.0), "unit")
    prepared, _ = prepare_volume(volume(fine), plan)
    inner = (prepared[0, 2:-2] + 1) * 127.5
    assert float(inner.max() - inner.min()) < 0.15
    assert float(inner.mean()) == pytest.approx(0.5, abs=0.02)


def test_zscore_ignores_scale_offset_and_empty_background():
    rng = np.random.default_rng(1)
    array = np.zeros((30, 30, 30))
    array[5:25, 5:25, 5:25] = rng.normal(100, 10, (20, 20, 20))
    a, _ = prepare_volume(volume(array), make_plan())
    b, _ = prepare_volume(volume(array * 1e4), make_plan())
    np.testing.assert_allclose(a, b, atol=1e-3)
    inside = a[0, 5:25, 5:25, 5:25]
    assert abs(float(inside.mean())) < 0.05
    assert float(inside.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("array", [np.full((6, 6, 6), 7.1), np.zeros((6, 6, 6)), np.full((1, 1, 1), 3.0)])
def test_constant_image_becomes_zeros(array):
    prepared, _ = prepare_volume(volume(array), make_plan())
    assert not prepared.any()


def test_one_bright_voxel_in_a_constant_image_stays_finite():
    array = np.full((20, 20, 20), 5.0)
    array[3, 3, 3] = 9e9
    prepared, _ = prepare_volume(volume(array), make_plan())
    assert prepared.isfinite().all()
    assert prepared.max() > prepared.min()


def test_ct_and_unit_follow_the_plan():
    array = np.array([-1000.0, 50.0, 130.0, 3000.0]).reshape(4, 1, 1)
    prepared, _ = prepare_volume(volume(array), make_plan(normalisation="ct"))
    np.testing.assert_allclose(prepared.flatten(), [-150 / 80, 0, 1, 250 / 80], rtol=1e-6)
    picture = Volume(np.array([[[0.0, 255.0]]], np.float32), np.eye(4))
    prepared, grid = prepare_volume(picture, make_plan((1.0, 1.0), "unit"))
    np.testing.assert_allclose(prepared.flatten(), [-1, 1])
    np.testing.assert_allclose(as_shown(prepared.numpy(), make_plan((1.0, 1.0), "unit")), picture.array)
    assert grid.flips == (False, False)


def test_input_is_not_changed_and_bad_input_is_refused():
    array = np.random.default_rng(0).normal(size=(5, 5, 5))
    scan = volume(array)
    before = scan.array.copy()
    prepare_volume(scan, make_plan())
    np.testing.assert_array_equal(scan.array, before)
    with pytest.raises(InputError, match=r"channels: found 1; expected 2 \(c0, c1\)"):
        prepare_volume(scan, make_plan(channels=2))
    with pytest.raises(InputError, match="found 3D; expected 2D"):
        prepare_volume(scan, make_plan((1.0, 1.0)))
    scan.array[0, 2, 2, 2] = np.nan
    with pytest.raises(InputError, match="finite intensities"):
        prepare_volume(scan, make_plan())


def test_a_scan_that_would_not_fit_into_memory_is_refused_before_it_is_resampled():
    with pytest.raises(InputError, match="size: found 800000 x 800000 x 800000, which needs"):
        prepare_volume(volume(np.ones((8, 8, 8)), (1e5, 1e5, 1e5)), make_plan())


def label(array, axes="RAS"):
    made = volume(array, axes=axes)
    return Volume(made.array.astype(np.int16), made.affine)


@pytest.mark.parametrize("target", [0.7, 1.6, 3.0])
def test_label_equals_arg_max_of_one_hots(target):
    rng = np.random.default_rng(2)
    smooth = ndimage.gaussian_filter(rng.normal(size=(3, 24, 20, 22)), (0, 3, 3, 3))
    array = smooth.argmax(0)
    plan = make_plan((target,) * 3)
    _, grid = prepare_volume(volume(array), plan)
    one_hot = functional.one_hot(torch.from_numpy(array), 3).movedim(-1, 0)[None].float()
    shares = functional.interpolate(one_hot, grid.prepared_shape, mode="trilinear", align_corners=False)[0]
    found = prepare_label(label(array), plan, grid)
    top = shares.topk(2, 0).values
    clear = (top[0] - top[1] > 1e-4).numpy()
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], shares.argmax(0).numpy()[clear])


def test_single_voxel_labels_survive_side_by_side():
    array = np.zeros((20, 20, 20))
    array[7, 7, 7], array[8, 7, 7], array[19, 0, 19] = 1, 2, 3
    plan = make_plan((4.0, 4.0, 4.0))
    _, grid = prepare_volume(volume(array), plan)
    found = prepare_label(label(array), plan, grid)
    assert set(np.unique(found)) == {0, 1, 2, 3}
    assert found[4, 0, 4] == 3
    assert np.abs(np.argwhere(found == 1)[0] - (7.5 / 4 - 0.5)).max() <= 1.5


def test_ignored_values_become_255():
    array = np.zeros((8, 8, 8))
    array[:4], array[4:, :4], array[4:, 4:] = 3, 255, 1
    for spacing in ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0)):
        plan = make_plan(spacing, ignore=3)
        _, grid = prepare_volume(volume(array), plan)
        found = prepare_label(label(array), plan, grid)
        assert set(np.unique(found)) == {1, 255}
        assert np.mean(found == 1) == pytest.approx(0.25)
    with pytest.raises(InputError, match="0 to 254"):
        prepare_label(label(array + 1000), plan, grid)
    with pytest.raises(InputError, match="shape"):
        prepare_label(label(array[:-1]), plan, grid)


@pytest.fixture
def cohort(tmp_path):
    rng = np.random.default_rng(0)
    cases = []
    for index in range(3):
        image, mask = tmp_path / f"s{index}.nii.gz", tmp_path / f"s{index}_label.nii.gz"
        array = np.zeros((12, 14, 10), np.uint8)
        array[3:8, 3:8, 3:8] = 1
        nib.save(nib.Nifti1Image(rng.normal(size=array.shape).astype(np.float32), np.diag([1, 1, 2, 1])), image)
        nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1])), mask)
        cases.append(Case(f"s{index}", (image,), mask if index < 2 else None, f"s{index}"))
    return Cohort(tmp_path, "plain", 3, tuple(cases), ("MR",), {"one": 1})


def test_cohort_is_cached_and_reused(cohort, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    calls = []
    first = prepare_cohort(cohort, make_plan(), folder, 2, lambda *counts: calls.append(counts))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert (first.labelled, first.unlabelled) == (["s0", "s1"], ["s2"])
    case = first["s0"]
    assert isinstance(case.image, np.memmap)
    assert case.image.dtype == np.float16
    assert case.image.shape == (1, 12, 14, 20)
    assert case.label.shape == case.shape == (12, 14, 20)
    assert (case.label[tuple(case.voxels[1].T)] == 1).all()
    assert len(case.voxels[1]) == (case.label == 1).sum()
    assert first["s2"].label is None
    monkeypatch.setattr(prepare, "read_image", None)  # a second pass reads no source file
    monkeypatch.setattr(prepare, "read_label", None)
    again = prepare_cohort(cohort.keep_labels(["s1"]), make_plan(), folder, 1)
    assert again["s0"].image_path == case.image_path
    assert again["s0"].label is None
    monkeypatch.undo()
    other = prepare_cohort(cohort, make_plan((2.0, 2.0, 2.0)), folder, 1)
    assert other["s0"].shape == (6, 7, 10)
    assert other["s0"].image_path != case.image_path


def test_damaged_cache_and_changed_source_are_prepared_again(cohort, tmp_path):
    folder = tmp_path / "cache"
    first = prepare_cohort(cohort, make_plan(), folder, 1)["s0"]
    whole = np.array(first.image)
    first.image_path.write_bytes(first.image_path.read_bytes()[:500])
    np.testing.assert_array_equal(prepare_cohort(cohort, make_plan(), folder, 1)["s0"].image, whole)
    nib.save(nib.Nifti1Image(np.zeros((12, 14, 10), np.float32), np.diag([1, 1, 2, 1])), cohort.cases[0].images[0])
    assert not prepare_cohort(cohort, make_plan(), folder, 1)["s0"].image.any()


def test_failing_cases_are_all_named(cohort, tmp_path):
    for index in (0, 2):
        path = cohort.cases[index].images[0]
        path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError) as caught:
        prepare_cohort(cohort, make_plan(), tmp_path / "cache", 2)
    assert {problem.case for problem in caught.value.problems} == {"s0", "s2"}
    assert "case s0" in str(caught.value)


def test_full_disk_is_said_and_leaves_nothing_half_written(tmp_path):
    """A real limit on file size stands in for the full disk: the write itself fails."""
    image = tmp_path / "big.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(64, 64, 64)).astype(np.float32), np.eye(4)), image)
    script = tmp_path / "fill.py"
    script.write_text(
        textwrap.dedent(f"""
        import resource, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_prepare import make_plan
        from foveate.batches.prepare import prepare_cohort
        from foveate.cohort.cohort import Case, Cohort
        from foveate.files import DiskFull
        case = Case("big", (Path({str(image)!r}),), None, "big")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            prepare_cohort(Cohort(Path("."), "plain", 3, (case,), ("MR",), {{}}), make_plan(), Path("cache"), 1)
        except DiskFull as error:
            print(error)
        """)
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("case big: cache/big-")
    assert "Free some space" in done.stdout
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_takes_no_file_is_no_fault_of_the_scans(cohort, tmp_path, monkeypatch):
    def denied(path, array):
        raise unwritten(path, PermissionError(errno.EACCES, "Permission denied"), array.nbytes)

    monkeypatch.setattr(prepare, "write_array", denied)
    with pytest.raises(Unwritable) as caught:
        prepare_cohort(cohort, make_plan(), tmp_path / "cache", 2)
    assert "cache/s" in str(caught.value)
    assert "see to its permissions" in str(caught.value)
    assert "remove it" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory_is_no_fault_of_the_scans(error, cohort, tmp_path, monkeypatch):
    def full(*_):
        raise error

    monkeypatch.setattr(prepare, "prepare_volume", full)
    with pytest.raises(InputError, match="memory ran out") as caught:
        prepare_cohort(cohort, make_plan(), tmp_path / "cache", 2)
    assert "case s0" in str(caught.value)
    assert "remove it" not in str(caught.value)
