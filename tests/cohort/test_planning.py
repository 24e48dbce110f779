"""Plans of cohorts like those that exist: small scans are covered, large ones made coarser, strides divide patches."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.cohort.cohort import Case, Cohort
from foveate.cohort.fingerprint import ChannelFingerprint, Fingerprint, Intensities
from foveate.cohort.plan import Plan
from foveate.cohort.planning import CPU, GPU, Budget, make_plan
from foveate.errors import InputError
from toys import tiny_plan

MR = ((0.0, 3.0, 200.0, 900.0, 1500.0),)
HU = (-1024.0, -1000.0, -500.0, 150.0, 700.0)
RGB = ((0.0, 20.0, 120.0, 240.0, 255.0),) * 3


def described(shape, spacing, names=("MRI",), percentiles=MR, foreground=None):
    """A cohort of ten scans and its fingerprint."""
    dims = len(shape)
    cohort = Cohort(Path("data"), "plain", dims, (), tuple(names), {"organ": 1})
    channels = tuple(
        ChannelFingerprint(name=name, mean=p[2], std=100.0, percentiles=p, foreground=foreground)
        for name, p in zip(names, percentiles, strict=True)
    )
    size, sides = tuple(map(float, shape)), tuple(map(float, spacing))
    whole = tuple(map(int, shape))
    fingerprint = Fingerprint(
        dims=dims,
        layout="plain",
        cases=10,
        labelled=4,
        unlabelled=6,
        patients=10,
        shape=size,
        shape_least=whole,
        shape_largest=whole,
        spacing=sides,
        spacing_least=sides,
        spacing_largest=sides,
        stored="int16",
        channels=channels,
        classes=(),
    )
    return cohort, fingerprint


COHORTS = {
    "hippocampus": described((35.5, 51, 35), (1, 1, 1)),
    "left atrium": described((320, 320, 115), (1.25, 1.25, 1.37)),
    "CT": described((512, 512, 300), (0.8, 0.8, 1.0), ("CT",), (HU,)),
    "pictures": described((600, 800), (1, 1), "RGB", RGB),
    "thick slices": described((256, 256, 24), (0.9, 0.9, 5.0)),
    "one slice": described((256, 256, 1), (0.9, 0.9, 8.0)),
    "tiny": described((12, 9), (1, 1)),
}
every_cohort = pytest.mark.parametrize("described_cohort", COHORTS.values(), ids=COHORTS)
every_budget = pytest.mark.parametrize("budget", [CPU, CPU.scaled(0.2), GPU], ids=["cpu", "slow cpu", "gpu"])


def check_shape(plan, budget):
    """What must hold of every plan."""
    divisor = np.prod(plan.strides, axis=0)
    assert len(plan.widths) == len(plan.strides)
    assert plan.strides[0] == (1,) * plan.dims
    assert not (np.array(plan.patch) % divisor).any()
    deepest = np.array(plan.patch) / divisor
    assert ((deepest >= 4) | (divisor == 1)).all(), deepest  # an axis that is never pooled may be short
    assert plan.batch * math.prod(plan.patch) <= budget.voxels
    assert (4 if plan.dims == 2 else 2) <= plan.batch <= 16
    assert plan.widths[0] == budget.width
    assert all(b in (2 * a, budget.widest) for a, b in zip(plan.widths, plan.widths[1:], strict=False))


@every_cohort
@every_budget
def test_every_plan_divides_and_stays_within_its_budget(described_cohort, budget):
    check_shape(make_plan(*described_cohort, budget), budget)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 3).flatmap(
        lambda dims: st.tuples(
            st.lists(st.floats(1, 700), min_size=dims, max_size=dims),
            st.lists(st.floats(0.2, 8), min_size=dims, max_size=dims),
        )
    ),
    st.floats(0.002, 2),
)
def test_any_cohort_gets_such_a_plan(sizes, factor):
    budget = CPU.scaled(factor)
    check_shape(make_plan(*described(*sizes), budget), budget)


@pytest.mark.parametrize("name", ["hippocampus", "tiny"])
@pytest.mark.parametrize("budget", [CPU, GPU], ids=["cpu", "gpu"])
def test_a_small_scan_is_covered_whole_at_its_own_voxel_size(name, budget):
    cohort, fingerprint = COHORTS[name]
    plan = make_plan(cohort, fingerprint, budget)
    assert plan.spacing == fingerprint.spacing
    assert all(p >= n for p, n in zip(plan.patch, fingerprint.shape, strict=True))
    assert all(p < n + 16 for p, n in zip(plan.patch, fingerprint.shape, strict=True))


@pytest.mark.parametrize("name", ["left atrium", "CT"])
def test_a_large_scan_is_seen_coarser_on_a_small_machine_and_most_of_it_at_once(name):
    cohort, fingerprint = COHORTS[name]
    small, large = make_plan(cohort, fingerprint, CPU), make_plan(cohort, fingerprint, GPU)
    extent = np.array(fingerprint.shape) * fingerprint.spacing
    for plan, budget in ((small, CPU), (large, GPU)):
        factor = np.array(plan.spacing) / fingerprint.spacing
        assert ((factor >= 1 - 1e-3) & (factor <= budget.coarser + 1e-3)).all()
        seen = np.array(plan.patch) * plan.spacing / extent
        assert seen.min() > 0.3, seen
    assert math.prod(small.spacing) > 2 * math.prod(large.spacing)
    assert math.prod(n / s for n, s in zip(extent, large.spacing, strict=True)) < 1.5 * GPU.scan


def test_fewer_voxels_a_step_change_the_patch_and_not_the_voxel_size():
    cohort, fingerprint = COHORTS["left atrium"]
    whole, half = make_plan(cohort, fingerprint, CPU), make_plan(cohort, fingerprint, CPU.scaled(0.5))
    assert half.spacing == whole.spacing
    assert math.prod(half.patch) < 0.6 * math.prod(whole.patch)


def test_thick_slices_are_pooled_once_the_others_are_as_coarse_and_are_not_thickened():
    cohort, fingerprint = COHORTS["thick slices"]
    plan = make_plan(cohort, fingerprint, GPU)
    assert plan.spacing == (0.9, 0.9, 5.0)
    assert plan.strides[:3] == ((1, 1, 1), (2, 2, 1), (2, 2, 1))
    assert plan.strides[3] == (2, 2, 2)  # 3.6 mm by 3.6 mm by 5 mm: nearly cubes
    coarse = make_plan(cohort, fingerprint, CPU)
    assert coarse.spacing[2] == 5.0
    assert 0.9 < coarse.spacing[0] == coarse.spacing[1] < 5.0


def test_a_patch_keeps_the_proportions_of_the_scan_in_mm():
    plan = make_plan(*described((400, 200, 200), (1, 1, 1)), Budget(1_000_000, 16, 256, 10**9, 3.0))
    assert plan.patch[0] >= plan.patch[1]
    sides = np.array(plan.patch) * plan.spacing
    assert sides.max() < 1.5 * sides.min()  # the longest side is shortened first


# --- normalisation


def channel(names=("MRI",), percentiles=MR, foreground=None, shape=(64, 64, 64)):
    plan = make_plan(*described(shape, (1,) * len(shape), names, percentiles, foreground), CPU)
    return plan.channels[0]


def test_ct_is_known_by_its_name_and_by_its_values():
    inside = Intensities(mean=40.0, std=30.0, percentiles=(-60.0, 150.0))
    windowed = (-160.0, -100.0, 0.0, 100.0, 240.0)  # clipped by somebody else: the name alone tells
    for names, percentiles in ((("CT",), HU), (("ct",), windowed), (("scan",), HU)):
        found = channel(names, (percentiles,), inside)
        assert found.normalisation == "ct"
        assert (found.lower, found.upper, found.mean, found.std) == (-60.0, 150.0, 40.0, 30.0)
    without_labels = channel(("CT",), (HU,))
    assert (without_labels.lower, without_labels.upper) == (-1024.0, 700.0)


def test_a_constant_foreground_does_not_divide_by_zero():
    assert channel(("CT",), (HU,), Intensities(mean=1.0, std=0.0, percentiles=(1.0, 1.0))).std > 0


def test_magnetic_resonance_and_grey_pictures_are_standardised_per_image():
    assert channel().normalisation == "zscore"
    assert channel(percentiles=((-300.0, 0.0, 1.0, 2.0, 3.0),)).normalisation == "zscore"
    assert channel(("grey",), RGB[:1], shape=(64, 64)).normalisation == "zscore"


def test_colour_pictures_of_8_bits_keep_their_range():
    assert channel("RGB", RGB, shape=(64, 64)).normalisation == "unit"
    of_16_bits = ((0.0, 500.0, 3000.0, 60000.0, 65535.0),) * 3
    assert channel("RGB", of_16_bits, shape=(64, 64)).normalisation == "zscore"
    assert channel("RGB", RGB).normalisation == "zscore"  # three sequences of a volume


# --- mirroring


@pytest.mark.parametrize(
    ("name", "mirror", "axes"),
    [
        ("hippocampus", "auto", ()),
        ("pictures", "auto", (1,)),
        ("pictures", "none", ()),
        ("hippocampus", [2, 0, 2], (0, 2)),
        ("hippocampus", [], ()),
    ],
)
def test_pictures_are_mirrored_left_right_and_volumes_only_when_asked(name, mirror, axes):
    assert make_plan(*COHORTS[name], CPU, mirror).mirror_axes == axes


@pytest.mark.parametrize(("name", "mirror"), [("pictures", [2]), ("hippocampus", [3]), ("hippocampus", [-1])])
def test_an_axis_that_is_not_there_is_refused(name, mirror):
    with pytest.raises(InputError, match=r"augment\.mirror.*axes from 0 to"):
        make_plan(*COHORTS[name], CPU, mirror)


def test_the_plan_survives_its_file(tmp_path):
    plan = make_plan(*COHORTS["CT"], CPU)
    plan.write(tmp_path / "plan.json")
    assert type(plan).read(tmp_path / "plan.json") == plan


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 3).flatmap(
        lambda dims: st.tuples(
            st.lists(st.floats(8, 700), min_size=dims, max_size=dims),
            st.lists(st.floats(0.2, 8), min_size=dims, max_size=dims),
        )
    ),
    st.floats(0.05, 2),
)
def test_a_patch_of_a_whole_image_divides_and_holds_it(sizes, factor):
    budget = CPU.scaled(factor)
    size, spacing = sizes if len(sizes[0]) == 3 else (sizes[0], (1.0, 1.0))
    cohort, fingerprint = described(size, spacing)
    cases = tuple(Case(name, (), None, name, target=(name,)) for name in "ab")
    cohort = replace(cohort, task="classification", classes={"a": 0, "b": 1}, cases=cases)
    plan = make_plan(cohort, fingerprint, budget)
    assert plan.whole
    divisor = np.prod(plan.strides, axis=0)
    assert not (np.array(plan.patch) % divisor).any()
    assert ((np.array(plan.patch) / divisor >= 4) | (divisor == 1)).all()
    assert math.prod(plan.patch) <= 1.1 * budget.voxels / {2: 16, 3: 8}[plan.dims] or max(plan.patch) <= 2
    if plan.dims == 3:
        left = np.array(plan.patch) - np.array(fingerprint.shape_largest) * fingerprint.spacing / plan.spacing
        assert (left >= -0.02 * divisor - 0.1).all()  # voxels, within rounding of the voxel size


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch": [30, 32]}, r"patch: found \(30, 32\); expected multiples of \(4, 4\)"),
        ({"patch": [32, 0]}, "patch.1"),
        ({"patch": [32]}, "patch needs a number for each of 2 axes"),
        ({"spacing": [0, 1]}, "spacing.0"),
        ({"widths": [4, 8]}, "widths and strides need an entry for each stage"),
        ({"strides": [[1, 1], [2, 2], [2]]}, "strides 2 needs a number for each of 2 axes"),
        ({"mirror_axes": [2]}, "mirror_axes are numbers from 0 to 1"),
    ],
)
def test_a_plan_that_was_edited_wrongly_is_refused_by_its_field(tmp_path, changes, said):
    plan = tiny_plan(2, patch=(32, 32), widths=(4, 8, 16), strides=((1, 1), (2, 2), (2, 2)))
    path = tmp_path / "plan.json"
    plan.write(path)
    assert Plan.read(path) == plan
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputError, match=said):
        Plan.read(path)
