"""Networks by the name they have on the command line.

Contract: ``Network(plan, channels, config)``. ``forward(x)`` takes ``[B, C, *S]`` with S divisible by the product of
the strides; in training it returns logits at full and, with deep supervision, at coarser resolutions (a list,
finest first); in evaluation the finest alone ``[B, K, *S]``. ``encode(x)`` gives the features, finest first, that the
module ``decoder`` turns into logits; ``forward(x, perturb)`` applies ``perturb`` to each of them on the way.
``image_channels`` is C. A network that says ``takes_missing`` answers images of which some channels are missing, NaN
in their place; the others need them all.
"""

from foveate.cohort.plan import Plan
from foveate.config import NetworkConfig
from foveate.errors import refuse
from foveate.networks.dual_attention import DualAttentionUNet
from foveate.networks.fusion_unet import FusionUNet
from foveate.networks.hybrid import HybridUNet
from foveate.networks.unet import UNet
from foveate.networks.window_unet import WindowUNet
from foveate.text import closest

NETWORKS: dict[str, type[UNet]] = {
    "unet": UNet,
    "window_unet": WindowUNet,
    "fusion_unet": FusionUNet,
    "dual_attention": DualAttentionUNet,
    "hybrid": HybridUNet,
}


def network_class(config: NetworkConfig) -> type[UNet]:
    """The class of the configuration's network. Raises InputError with the nearest name for an unknown one."""
    if config.name not in NETWORKS:
        raise refuse(
            "configuration",
            "network.name",
            config.name,
            f"one of {', '.join(NETWORKS)}",
            closest(config.name, NETWORKS),
        )
    return NETWORKS[config.name]


def build_network(config: NetworkConfig, plan: Plan, channels: int) -> UNet:
    """The network of the configuration with ``channels`` logit maps. Raises InputError for an unknown name."""
    return network_class(config)(plan, channels, config)


__all__ = ["NETWORKS", "FusionUNet", "UNet", "WindowUNet", "build_network", "network_class"]
