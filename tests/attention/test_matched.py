"""The control of an attention block has as many parameters as the block, and convolves."""

import pytest
import torch
from torch import nn

from foveate.attention.matched import MatchedConvolution, parameters_of
from foveate.errors import InputError
from foveate.networks.unet import build_attention


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("parameters", [200, 1_000, 20_000])
def test_parameters_match_within_half_a_hidden_channel(dims, parameters):
    channels = 16
    control = MatchedConvolution(channels, dims, parameters)
    hidden = control.body[0].out_channels
    one_channel = (parameters_of(control) - channels) / hidden
    assert abs(parameters_of(control) - parameters) <= one_channel / 2
    needed = 16 + 16 * 3**dims + 17  # a single hidden channel of 3^D
    assert control.body[0].kernel_size[0] == (3 if parameters >= needed else 1)


def test_the_smallest_is_one_hidden_channel_and_passes_the_feature_on():
    control = MatchedConvolution(8, 3, 3)
    assert control.body[0].weight.shape == (1, 8, 1, 1, 1)
    nn.init.zeros_(control.body[2].weight)
    nn.init.zeros_(control.body[2].bias)
    x = torch.randn(1, 8, 3, 4, 5)
    torch.testing.assert_close(control(x), x)


def test_it_takes_the_place_of_a_block_in_a_slot():
    gate = build_attention("skip", "gate", 16, 3, inputs=(1, 2))
    control = build_attention("skip", "convolution_like_gate", 16, 3, inputs=(1, 2))
    assert isinstance(control, MatchedConvolution)
    assert parameters_of(control) == pytest.approx(parameters_of(gate), rel=0.1)
    with pytest.raises(InputError, match=r"convolution_like_gat.*expected none or one of"):
        build_attention("skip", "convolution_like_gat", 16, 3)
