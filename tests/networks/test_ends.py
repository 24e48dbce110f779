"""What every network may end in: a CRF and a dense-upsampling head."""

import itertools
import math

import pytest
import torch

from foveate.config import NetworkConfig
from foveate.errors import InputError
from foveate.layers import pixel_shuffle
from foveate.networks import build_network
from foveate.networks.crf import CRF
from toys import SEGMENTING, tiny_plan

ENDS = {"crf": {"crf": True}, "dense": {"head": "dense_upsampling"}, "both": {"crf": True, "head": "dense_upsampling"}}
PLANS = {
    "2D": tiny_plan(2, widths=(4, 4, 6, 8), strides=((1, 1), *[(2, 2)] * 3)),
    "3D, thick slices": tiny_plan(3, patch=(8, 16, 5), strides=((1, 1, 1), (2, 3, 1), (1, 1, 1)), spacing=(1, 1, 4)),
}
every_network = pytest.mark.parametrize("name", SEGMENTING)
every_end = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def network_of(plan, name="unet", **end):
    torch.manual_seed(0)
    return build_network(NetworkConfig(name=name, **end), plan, 3)


@every_network
@every_end
@every_plan
def test_logits_have_full_resolution_and_every_parameter_learns(name, end, plan):
    patch = tuple(math.lcm(n, math.prod(s)) for n, s in zip(plan.patch, zip(*plan.strides, strict=True), strict=True))
    network, images = network_of(plan, name, **end), torch.randn(2, 1, *patch)
    outputs = network(images)
    assert [len(outputs), outputs[0].shape] == [max(len(plan.widths) - 2, 1), (2, 3, *patch)]
    assert all(coarse.shape[2:] == tuple(n // 2 for n in patch) for coarse in outputs[1:])
    sum(logits.square().sum() for logits in outputs).backward()
    unused = [key for key, value in network.named_parameters() if value.grad is None or not (value.grad != 0).any()]
    assert not unused
    torch.testing.assert_close(network.eval()(images), outputs[0])


@every_network
@every_plan
def test_the_crf_refines_the_finest_logits_by_the_image(name, plan):
    plain = network_of(plan, name)
    refined = network_of(plan, name, crf=True)
    refined.load_state_dict(plain.state_dict(), strict=False)  # the same names: a CRF may be added to trained weights
    images = torch.randn(1, 1, *(4 * math.prod(axis) for axis in zip(*plan.strides, strict=True)))
    before, after = plain(images), refined(images)
    torch.testing.assert_close(after[0], CRF(3, plan.spacing)(before[0], images))
    assert not torch.allclose(after[0], before[0], atol=1e-2)
    torch.testing.assert_close(after[1:], before[1:])


@pytest.mark.parametrize(
    ("found", "classes"),
    [
        ("regions that overlap", {"classes": {"whole": (1, 2), "core": (2,)}}),
        ("a label tree", {"tree": {"both": ("front", "back")}}),
    ],
)
def test_a_crf_is_refused_where_channels_do_not_exclude_each_other(found, classes):
    with pytest.raises(InputError, match=rf"network\.crf: found true, and {found}"):
        network_of(tiny_plan(2, **classes), crf=True)


def test_dense_upsampling_is_refused_where_there_is_nothing_to_skip():
    with pytest.raises(InputError, match=r"network\.head: found dense_upsampling, and a network of one stage"):
        network_of(tiny_plan(2, widths=(4,), strides=((1, 1),)), head="dense_upsampling")


def test_pixel_shuffle_is_torchs_in_2d():
    x = torch.randn(2, 3 * 9, 4, 5)
    assert torch.equal(pixel_shuffle(x, (3, 3)), torch.nn.functional.pixel_shuffle(x, 3))


def test_pixel_shuffle_puts_every_channel_in_its_voxel_in_3d():
    stride, size = (2, 1, 3), (2, 3, 2)
    x = torch.randn(2, 4 * 6, *size)
    expected = torch.full((2, 4, *(s * n for s, n in zip(stride, size, strict=True))), torch.nan)
    for t, *place in itertools.product(range(4), *map(range, size)):
        for number, step in enumerate(itertools.product(*map(range, stride))):
            voxel = tuple(p * s + o for p, s, o in zip(place, stride, step, strict=True))
            expected[(slice(None), t, *voxel)] = x[(slice(None), 6 * t + number, *place)]
    assert torch.equal(pixel_shuffle(x, stride), expected)
