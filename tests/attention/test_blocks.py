"""Every attention block keeps one contract, in 2D and 3D; then what makes each of them the block it claims to be."""

import pytest
import torch
from monai.networks.blocks import ChannelSELayer

from foveate.attention import ATTENTION, AttentionGate, SqueezeExcite

SIZES = {2: (7, 10), 3: (5, 6, 9)}
CHANNELS = 8

every_block = pytest.mark.parametrize("name", ATTENTION)
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def block_and_inputs(name, dims, dtype=torch.float32, size=None, images=2):
    """The block and its inputs: noise around a level of its own for every channel of every image."""
    torch.manual_seed(0)
    block = ATTENTION[name](CHANNELS, dims).to(dtype)
    shape, level = (images, CHANNELS, *(size or SIZES[dims])), (images, CHANNELS, *[1] * dims)
    inputs = [(torch.randn(shape) + 2 * torch.randn(level)).to(dtype) for _ in range(block.inputs)]
    return block, inputs


@every_block
@in_2d_and_3d
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_and_number_format_are_kept(name, dims, dtype):
    block, inputs = block_and_inputs(name, dims, dtype)
    out = block(*inputs)
    assert out.shape == inputs[0].shape
    assert out.dtype == dtype
    assert out.isfinite().all()


@every_block
@in_2d_and_3d
def test_one_voxel_is_enough(name, dims):
    block, inputs = block_and_inputs(name, dims, size=(1,) * dims)
    assert block(*inputs).isfinite().all()


@every_block
@in_2d_and_3d
def test_images_of_a_batch_do_not_see_each_other(name, dims):
    block, inputs = block_and_inputs(name, dims)
    alone = torch.cat([block(*[x[i : i + 1] for x in inputs]) for i in range(2)])
    torch.testing.assert_close(block(*inputs), alone)
    for x in inputs:
        x.requires_grad_()
    block(*inputs)[0].square().sum().backward()
    assert all((x.grad[0] != 0).any() and (x.grad[1] == 0).all() for x in inputs)


@every_block
@in_2d_and_3d
def test_gradient_reaches_every_parameter(name, dims):
    block, inputs = block_and_inputs(name, dims, images=8)
    block(*inputs).square().sum().backward()
    for parameter, value in block.named_parameters():
        assert value.grad is not None, parameter
        assert (value.grad != 0).any(), parameter


@pytest.mark.parametrize("name", [name for name, block in ATTENTION.items() if hasattr(block, "attention")])
@in_2d_and_3d
def test_the_map_has_a_weight_for_every_voxel_or_channel(name, dims):
    block, inputs = block_and_inputs(name, dims)
    weights = block.attention(*inputs)
    assert weights.shape[0] == 2
    assert weights.shape[1:] in {(CHANNELS, *[1] * dims), (CHANNELS, *SIZES[dims]), (1, *SIZES[dims])}
    assert weights.isfinite().all()
    assert (weights >= 0).all()


@pytest.mark.parametrize("name", [name for name, block in ATTENTION.items() if getattr(block, "multiplies", False)])
@in_2d_and_3d
def test_the_map_is_what_forward_multiplies_with(name, dims):
    block, inputs = block_and_inputs(name, dims)
    torch.testing.assert_close(inputs[0] * block.attention(*inputs), block(*inputs))


@every_block
@in_2d_and_3d
def test_exports(name, dims):
    block, inputs = block_and_inputs(name, dims)
    exported = torch.export.export(block.eval(), tuple(inputs)).module()
    torch.testing.assert_close(exported(*inputs), block(*inputs))


@in_2d_and_3d
@pytest.mark.parametrize(("bias", "share"), [(30.0, 1.0), (-30.0, 0.0)])
def test_gate_opens_and_closes(dims, bias, share):
    gate = AttentionGate(CHANNELS, dims)
    torch.nn.init.zeros_(gate.psi.weight)
    torch.nn.init.constant_(gate.psi.bias, bias)
    x, g = (torch.randn(2, CHANNELS, *SIZES[dims]) for _ in range(2))
    torch.testing.assert_close(gate(x, g), share * x, atol=1e-6, rtol=1e-6)


def test_gate_weighs_each_voxel_by_both_features_there():
    gate = AttentionGate(CHANNELS, 3)
    x, g = (torch.randn(1, CHANNELS, *SIZES[3]) for _ in range(2))
    before = gate.attention(x, g)
    for changed in (x, g):
        other = changed.clone()
        other[..., 2, 3, 4] += 5
        moved = gate.attention(other, g) if changed is x else gate.attention(x, other)
        assert ((moved - before).abs() > 1e-6).nonzero().tolist() == [[0, 0, 2, 3, 4]]


@in_2d_and_3d
def test_squeeze_excite_equals_monai(dims):
    channels = 32
    ours, theirs = SqueezeExcite(channels, dims), ChannelSELayer(dims, channels, r=4)
    theirs.fc[0].load_state_dict(ours.squeeze.state_dict())
    theirs.fc[2].load_state_dict(ours.excite.state_dict())
    x = torch.randn(2, channels, *SIZES[dims])
    torch.testing.assert_close(ours(x), theirs(x))
