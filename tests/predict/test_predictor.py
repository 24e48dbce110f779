"""A predictor gives labels back where they were, on any grid and orientation."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from foveate.cohort.plan import ChannelPlan, Plan
from foveate.config import NetworkConfig
from foveate.errors import FoveateError, InputError
from foveate.io.volume import Volume
from foveate.networks import build_network
from foveate.predict import predictor
from foveate.predict.device import bfloat16_pays, pick_device
from foveate.predict.predictor import Predictor
from foveate.predict.views import draw_views
from foveate.tasks import build_task

CLASSES = {"one": 1, "two": 2}


def make_plan(spacing=(1.0, 1.0, 1.0), patch=None, **extra):
    """Intensities pass unchanged, so that a network sees the label values that the test drew."""
    dims = len(spacing)
    settings = {"classes": CLASSES, "batch": 2, **extra}
    return Plan(
        dims=dims,
        spacing=spacing,
        patch=patch or (16,) * dims,
        channels=(ChannelPlan(name="CT", normalisation="ct", lower=-10, upper=10),),
        widths=(4, 8),
        strides=((1,) * dims, (2,) * dims),
        **settings,
    )


class Identity(nn.Module):
    """Says of each voxel the class whose value its intensity is nearest to."""

    def forward(self, x):
        return torch.cat([-((x - k) ** 2) * 8 for k in range(3)], 1)


class Constant(nn.Module):
    def forward(self, x):
        return torch.tensor([0.0, -3.0, 2.0]).view(1, 3, *[1] * (x.ndim - 2)).expand(len(x), 3, *x.shape[2:])


def make(network, plan, **options):
    return Predictor(network, build_task(plan), plan, precision="float32", **options)


def shapes(shape):
    """Smooth nested label map: between 0 and 2 there is always some 1, as in its interpolation."""
    field = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=shape), 4)
    return np.digitize(field, np.quantile(field, [0.4, 0.75])).astype(np.float32)


@pytest.mark.parametrize("shape", [(37, 20, 29), (3, 50, 7), (1, 1, 1)])
def test_constant_network_labels_everything(shape):
    found = make(Constant(), make_plan((1.0, 1.3, 0.8))).predict(np.zeros(shape), spacing=(1, 1, 1))
    assert found.dtype == np.uint8
    assert found.shape == shape
    assert (found == 2).all()


def stored(labels, axes, spacing=(1.0, 1.0, 1.0)):
    """``labels`` drawn in RAS order, as a file in voxel order ``axes`` would hold them: array and affine."""
    target = nib.orientations.axcodes2ornt(axes)
    way = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), target)
    image = nib.Nifti1Image(labels, np.diag([*spacing, 1.0])).as_reoriented(way)
    assert nib.aff2axcodes(image.affine) == tuple(axes)
    return np.asarray(image.dataobj), image.affine


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "PIL", "ASL"])
@pytest.mark.parametrize("patch", [(48, 32, 48), (16, 16, 16)])
def test_labels_come_back_in_the_orientation_of_the_input(axes, patch, monkeypatch):
    monkeypatch.setattr(predictor, "SUMS", 200_000)
    array, affine = stored(shapes((37, 26, 41)), axes)
    found = make(Identity(), make_plan(patch=patch)).predict(array, affine=affine)
    np.testing.assert_array_equal(found, array)


class MoveRight(Identity):
    def forward(self, x):
        return super().forward(x.roll(1, dims=2))


@pytest.mark.parametrize("axes", ["LPS", "SAR", "PIL"])
def test_network_sees_canonical_axes(axes):
    labels = shapes((20, 22, 24))
    array, affine = stored(labels, axes)
    found = make(MoveRight(), make_plan(patch=(24, 24, 24))).predict(array, affine=affine)
    expected, _ = stored(np.roll(labels, 1, axis=0), axes)
    right = stored(np.broadcast_to(np.arange(20.0)[:, None, None], labels.shape).copy(), axes)[0]
    np.testing.assert_array_equal(found[right > 0], expected[right > 0])


@pytest.mark.parametrize("axes", ["RAS", "LPI", "SPL"])
@pytest.mark.parametrize("target", [(1.0, 1.0, 1.0), (0.6, 1.5, 2.0)])
def test_identity_network_recovers_labels_of_anisotropic_scans(axes, target):
    labels = np.repeat(shapes((40, 33, 12)), 2, axis=2)
    array, affine = stored(labels, axes, (0.8, 1.2, 2.5))
    found = make(Identity(), make_plan(target)).predict(array, affine=affine)
    for value in (1, 2):
        a, b = found == value, array == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.93
        shift = np.subtract(ndimage.center_of_mass(a), ndimage.center_of_mass(b))
        assert np.abs(shift).max() < 0.3


@pytest.mark.parametrize("target", [0.6, 1.7])
def test_ball_comes_back_without_a_shift(target):
    """Half-voxel faults show as a shift that does not average out: the ball is off-centre and off-grid."""
    points = np.stack(np.meshgrid(*[np.arange(n) for n in (50, 44, 47)], indexing="ij"))
    centre = np.array([20.3, 23.1, 25.8])
    distance = np.sqrt(((points - centre[:, None, None, None]) ** 2).sum(0))
    array = np.clip(13 - distance, 0, 1)  # soft edge
    found = make(Identity(), make_plan((target,) * 3)).predict(array, spacing=(1, 1, 1))
    assert np.abs(np.array(ndimage.center_of_mass(found == 1)) - centre).max() < 0.05


def test_pictures():
    labels = shapes((61, 45))
    found = make(Identity(), make_plan((1.0, 1.0), (16, 16))).predict(labels)
    np.testing.assert_array_equal(found, labels)
    found = make(Identity(), make_plan((1.7, 1.7), (16, 16))).predict(labels[None])
    assert np.mean(found == labels) > 0.93


@pytest.mark.parametrize("shape", [(5, 9, 70), (16, 17, 31), (1, 1, 1), (2, 3, 2)])
def test_real_network_takes_any_size_and_division_changes_nothing(shape, monkeypatch):
    torch.manual_seed(0)
    plan = make_plan(mirror_axes=(0,))
    network = build_network(NetworkConfig(), plan, 3)
    array = np.random.default_rng(0).normal(size=shape)
    found = make(network, plan).predict(array, spacing=(1.0, 1.0, 1.0), mirror=True)
    assert found.shape == shape
    monkeypatch.setattr(predictor, "ACTIVATIONS", 1)
    a = make(network, plan, batch=1).predict(array, spacing=(1, 1, 1))
    monkeypatch.setattr(predictor, "SUMS", 1)
    b = make(network, plan, batch=3).predict(array, spacing=(1, 1, 1))
    assert np.mean(a == b) > 0.999


def test_mirroring_averages_over_axes():
    labels = shapes((12, 10, 14))

    class LeftOnly(nn.Module):
        """Sure of class 1 everywhere on the left half, silent on the right."""

        def forward(self, x):
            out = torch.zeros(len(x), 3, *x.shape[2:])
            out[:, 1, : x.shape[2] // 2] = 1
            return out

    plan = make_plan(mirror_axes=(0,))
    plain = make(LeftOnly(), plan).predict(labels, spacing=(1, 1, 1))
    assert (plain[:6] == 1).all()
    assert not plain[6:].any()
    assert (make(LeftOnly(), plan).predict(labels, spacing=(1, 1, 1), mirror=True) == 1).all()
    along_other = make(LeftOnly(), plan).predict(labels, spacing=(1, 1, 1), mirror=[1, 2])
    np.testing.assert_array_equal(along_other, plain)
    with pytest.raises(InputError, match="mirror_axes: found none"):
        make(LeftOnly(), make_plan()).predict(labels, spacing=(1, 1, 1), mirror=True)


def test_views_are_averaged_with_the_scan_as_it_is():
    array = shapes((16, 16, 16)) + np.random.default_rng(0).normal(0, 0.4, (16, 16, 16)).astype(np.float32)
    model = make(Identity(), make_plan())
    plain = model.predict(array, spacing=(1, 1, 1))
    x = torch.from_numpy(array)[None, None]
    answers = [model.network(x)] + [view.back(model.network(view.of(x))) for view in draw_views(4, (1, 1, 1), (), 0)]
    expected = model.task.decode(torch.stack(answers).mean(0))[0].numpy()
    found = model.predict(array, spacing=(1, 1, 1), views=4)
    np.testing.assert_array_equal(found, expected)
    assert (found != plain).any()
    assert np.mean(found == plain) > 0.8


def test_regions_and_values_of_the_plan_are_what_comes_back():
    plan = make_plan(classes={"a": 7, "b": 3})
    array = shapes((9, 9, 9))
    found = make(Identity(), plan).predict(array, spacing=(1, 1, 1))
    np.testing.assert_array_equal(found, np.array([0, 7, 3])[array.astype(int)])


def test_bad_input_is_refused_in_the_users_words():
    model = make(Identity(), make_plan())
    with pytest.raises(InputError, match="spacing: found none"):
        model.predict(np.zeros((4, 4, 4)))
    with pytest.raises(InputError, match="channels: found 2; expected 1"):
        model.predict(np.zeros((2, 4, 4, 4)), spacing=(1, 1, 1))
    with pytest.raises(InputError, match="shape"):
        model.predict(np.zeros((4, 4)), spacing=(1, 1, 1))
    with pytest.raises(InputError, match="overlap"):
        model.predict(np.zeros((4, 4, 4)), spacing=(1, 1, 1), overlap=1)
    with pytest.raises(InputError, match="finite"):
        model.predict(np.full((4, 4, 4), np.inf), spacing=(1, 1, 1))


def test_network_that_answers_nan_is_not_believed():
    class Broken(Identity):
        def forward(self, x):
            return super().forward(x) * float("nan")

    with pytest.raises(FoveateError, match="not finite"):
        make(Broken(), make_plan()).predict(np.zeros((4, 4, 4)), spacing=(1, 1, 1))


def test_input_is_not_changed():
    volume = Volume(np.random.default_rng(0).normal(size=(1, 6, 6, 6)).astype(np.float32), np.eye(4))
    before = volume.array.copy()
    make(Identity(), make_plan()).predict(volume)
    np.testing.assert_array_equal(volume.array, before)


def test_devices_by_name():
    assert pick_device("cpu") == torch.device("cpu")
    assert isinstance(bfloat16_pays(torch.device("cpu")), bool)
    with pytest.raises(InputError, match="auto, cpu, gpu"):
        pick_device("tpu")
    with pytest.raises(InputError, match="gpu:97"):
        pick_device("gpu:97")


@pytest.mark.parametrize(
    "config", [{"attention": {"skip": "non_local"}}, {"name": "dual_attention"}, {"name": "hybrid"}], ids=str
)
def test_the_network_is_shown_fields_of_the_size_that_it_was_trained_on(config):
    """Smaller ones in the middle of zeros, larger ones in parts: its instance norms were fitted to a patch, and full
    attention takes no more."""
    plan = make_plan((1.0, 1.0), (64, 64))
    network = build_network(NetworkConfig(**config), plan, 3)
    shown = []
    network.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    for side, windows in ((40, 1), (80, 4), (192, 25)):
        shown.clear()
        array = np.ones((side, side), np.float32)
        assert make(network, plan, batch=1).predict(array, spacing=(1.0, 1.0)).shape == array.shape
        assert len(shown) == windows
        assert {tuple(x.shape[2:]) for x in shown} == {(64, 64)}
        if windows == 1:
            assert (shown[0][0, 0, 12:52, 12:52] != 0).all()
            assert (shown[0] != 0).sum() == side**2
