"""Named networks carry their blocks where the configuration leaves the slot empty, and multi-scale stages attend."""

import pytest

from foveate.attention import AttentionGate, MultiScaleConv, PyramidPooling, SqueezeExcite
from foveate.config import AttentionSlots, NetworkConfig
from foveate.networks import build_network
from toys import tiny_plan


def blocks(name, kind, **slots):
    """Names of the modules of this kind in a network of three stages."""
    network = build_network(NetworkConfig(name=name, attention=AttentionSlots(**slots)), tiny_plan(2), 3)
    return [path for path, module in network.named_modules() if type(module) is kind]


SKIPS = ["decoder.stages.0.skip_attention", "decoder.stages.1.skip_attention"]


@pytest.mark.parametrize(
    ("name", "kind", "places"),
    [
        ("attention_unet", AttentionGate, SKIPS),
        ("spp_attention", PyramidPooling, ["bottleneck", *SKIPS]),
        ("ms_can", MultiScaleConv, ["encoder.1.0.attend.3", "encoder.2.0.attend.3"]),
    ],
)
def test_attention_sits_where_the_name_says(name, kind, places):
    assert blocks(name, kind) == places


def test_the_configuration_has_the_last_word():
    assert blocks("attention_unet", AttentionGate, skip="squeeze_excite") == []
    assert blocks("attention_unet", SqueezeExcite, skip="squeeze_excite") == SKIPS
