"""The U-Net with shifted-window attention; the attention itself is tested in tests/attention."""

from foveate.attention.window import WindowAttention
from foveate.config import NetworkConfig
from foveate.networks import build_network
from foveate.networks.window_unet import WindowUNet
from toys import tiny_plan


def test_full_resolution_is_convolved_and_every_stage_below_attends():
    network = build_network(NetworkConfig(name="window_unet"), tiny_plan(2), 3)
    assert isinstance(network, WindowUNet)
    blocks = [sum(isinstance(m, WindowAttention) for m in stage.modules()) for stage in network.encoder]
    assert blocks == [0, 2, 2]
