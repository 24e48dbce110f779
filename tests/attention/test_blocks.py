"""Every attention block keeps one contract, in 2D and 3D; what makes it the block it claims to be has its own file."""

import pytest
import torch

from foveate.attention import ATTENTION

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
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 3), (17, 1, 2)])
def test_tiny_sizes_are_enough(name, dims, size):
    block, inputs = block_and_inputs(name, dims, size=size[:dims])
    out = block(*inputs)
    assert out.shape == inputs[0].shape
    assert out.isfinite().all()


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
    block.double()(*[x.double() for x in inputs]).square().sum().backward()
    largest = {parameter: float(value.grad.abs().max()) for parameter, value in block.named_parameters()}
    assert all(size > 1e-9 * max(largest.values()) for size in largest.values()), largest


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
def test_the_order_of_memory_does_not_matter(name, dims):
    block, inputs = block_and_inputs(name, dims)
    channels_last = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    turned = [x.contiguous(memory_format=channels_last) for x in inputs]
    torch.testing.assert_close(block(*turned), block(*inputs))
    torch.testing.assert_close(block.to(memory_format=channels_last)(*turned), block(*inputs))


@every_block
@in_2d_and_3d
def test_gradients_in_bfloat16_are_those_of_float32_but_for_rounding(name, dims):
    block, inputs = block_and_inputs(name, dims)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        block = block.to(dtype)
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        gradients.append(torch.autograd.grad(block(*leaves).square().sum(), leaves))
    for exact, rounded in zip(*gradients, strict=True):
        assert rounded.isfinite().all()
        assert (rounded.float() - exact).norm() < 0.1 * exact.norm()


@every_block
@in_2d_and_3d
def test_exports(name, dims):
    block, inputs = block_and_inputs(name, dims)
    exported = torch.export.export(block.eval(), tuple(inputs)).module()
    torch.testing.assert_close(exported(*inputs), block(*inputs))


# These fold, pad, cut or divide by the length of axes, which torch.export then takes as given.
SIZED = {"large_kernel", "multi_scale_conv", "spp", "channel", "deformable", "neighbourhood", "window"}


@pytest.mark.parametrize("name", sorted(set(ATTENTION) - SIZED))
@in_2d_and_3d
def test_exports_for_any_size(name, dims):
    block, inputs = block_and_inputs(name, dims)
    free = dict.fromkeys(range(2, 2 + dims), torch.export.Dim.AUTO)
    exported = torch.export.export(block.eval(), tuple(inputs), dynamic_shapes=tuple(free for _ in inputs)).module()
    others = [torch.randn(2, CHANNELS, *[n + 4 for n in SIZES[dims]]) for _ in inputs]
    torch.testing.assert_close(exported(*others), block(*others))
