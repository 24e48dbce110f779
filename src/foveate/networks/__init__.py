"""Networks by the name they have on the command line.

Contract: ``Network(plan, channels, config)``. ``forward(x)`` takes ``[B, C, *S]`` with S divisible by the product of
the strides; in training it returns logits at full and, with deep supervision, at coarser resolutions (a list,
finest first); in evaluation the finest alone ``[B, K, *S]``. ``encode(x)`` gives the features, finest first, that the
module ``decoder`` turns into logits; ``forward(x, perturb)`` applies ``perturb`` to each of them on the way.
"""

from torch import nn

from foveate.cohort.plan import Plan
from foveate.config import NetworkConfig
from foveate.errors import refuse
from foveate.networks.attention_unet import AttentionUNet, PyramidUNet
from foveate.networks.ms_can import MultiScaleUNet
from foveate.networks.unet import UNet
from foveate.networks.window_unet import WindowUNet
from foveate.text import closest

NETWORKS: dict[str, type[nn.Module]] = {
    "unet": UNet,
    "window_unet": WindowUNet,
    "attention_unet": AttentionUNet,
    "spp_attention": PyramidUNet,
    "ms_can": MultiScaleUNet,
}


def build_network(config: NetworkConfig, plan: Plan, channels: int) -> nn.Module:
    """The network of the configuration with ``channels`` logit maps. Raises InputError for an unknown name."""
    if config.name not in NETWORKS:
        raise refuse(
            "configuration",
            "network.name",
            config.name,
            f"one of {', '.join(NETWORKS)}",
            closest(config.name, NETWORKS),
        )
    return NETWORKS[config.name](plan, channels, config)


__all__ = ["NETWORKS", "AttentionUNet", "MultiScaleUNet", "PyramidUNet", "UNet", "WindowUNet", "build_network"]
