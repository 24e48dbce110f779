"""Squeeze-and-excitation is MONAI's layer of the same weights."""

import pytest
import torch
from monai.networks.blocks import ChannelSELayer

from foveate.attention import SqueezeExcite


@pytest.mark.parametrize("size", [(7, 10), (5, 6, 9)])
def test_squeeze_excite_equals_monai(size):
    channels = 32
    ours, theirs = SqueezeExcite(channels, len(size)), ChannelSELayer(len(size), channels, r=4)
    theirs.fc[0].load_state_dict(ours.squeeze.state_dict())
    theirs.fc[2].load_state_dict(ours.excite.state_dict())
    x = torch.randn(2, channels, *size)
    torch.testing.assert_close(ours(x), theirs(x))
