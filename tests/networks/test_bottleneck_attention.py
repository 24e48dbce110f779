"""The networks whose coarsest features attend to all others: what they reach, and what they refuse."""

import pytest
import torch

from foveate.config import AttentionSlots, NetworkConfig
from foveate.errors import InputError
from foveate.networks import build_network
from foveate.networks.dual_attention import DualAttention
from foveate.networks.hybrid import Transformer
from toys import tiny_plan

bottlenecks = pytest.mark.parametrize("block", [DualAttention, Transformer])
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


@bottlenecks
@in_2d_and_3d
def test_every_voxel_is_reached_at_any_size(block, dims):
    torch.manual_seed(0)
    bottleneck = block(16, dims)
    for size in [(1,) * dims, (3,) * dims, (5, 4, 2)[:dims]]:
        x = torch.randn(1, 16, *size, requires_grad=True)
        out = bottleneck(x)
        assert out.shape == x.shape
        (gradient,) = torch.autograd.grad((out[(..., *[0] * dims)] * torch.arange(16)).sum(), x)
        assert (gradient.abs().sum(1) > 0).all()


@torch.no_grad()
@in_2d_and_3d
def test_dual_attention_is_the_sum_of_its_two_halves(dims):
    bottleneck, x = DualAttention(8, dims), torch.randn(2, 8, *[3] * dims)
    both = bottleneck(x)
    for half in (bottleneck.position, bottleneck.channel):
        kept, half[1] = half[1], torch.nn.Identity()  # without its convolution: what the attention gives
        attended = half(x)
        half[1] = kept
        both = both - kept(attended)
    torch.testing.assert_close(both, torch.zeros_like(x), atol=1e-5, rtol=0)


@torch.no_grad()
def test_positions_alone_tell_voxels_of_one_value_apart():
    """Attention does not know where a voxel lies; the convolution before it does, by the border."""
    torch.manual_seed(0)
    bottleneck, x = Transformer(16, 2), torch.ones(1, 16, 5, 5)
    out = bottleneck(x)[0]
    assert not torch.allclose(out[:, 0, 0], out[:, 2, 2], atol=1e-3)
    torch.nn.init.zeros_(bottleneck.positions.weight)
    out = bottleneck(x)[0]
    torch.testing.assert_close(out[:, 0, 0], out[:, 2, 2])


@pytest.mark.parametrize(("name", "block"), [("dual_attention", DualAttention), ("hybrid", Transformer)])
def test_the_bottleneck_attends_and_keeps_its_slot(name, block):
    config = NetworkConfig(name=name, attention=AttentionSlots(bottleneck="squeeze_excite"))
    network = build_network(config, tiny_plan(2), 3)
    assert [type(part).__name__ for part in network.bottleneck] == [block.__name__, "SqueezeExcite"]


@pytest.mark.parametrize("name", ["dual_attention", "hybrid"])
def test_too_many_voxels_at_the_bottleneck_are_refused_before_training(name):
    with pytest.raises(InputError, match=f"network.name: found {name} among 9216 voxels; expected at most 8192"):
        build_network(NetworkConfig(name=name), tiny_plan(2, patch=(384, 384)), 3)
