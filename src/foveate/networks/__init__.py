"""Networks by the name they have on the command line.

Contract: ``Network(plan, channels, config)``. ``forward(x)`` takes ``[B, C, *S]`` with S divisible by the product of
the strides; in training it returns logits at full and, with deep supervision, at coarser resolutions (a list,
finest first); in evaluation the finest alone ``[B, K, *S]``. ``encode(x)`` gives the features, finest first, that the
module ``decoder`` turns into logits; ``forward(x, perturb)`` applies ``perturb`` to each of them on the way.
A decoder of the class ``Decoder`` may end in another head or in a CRF; then the image is the last of the features.
"""

from torch import nn

from foveate.cohort.plan import Plan
from foveate.config import NetworkConfig
from foveate.errors import refuse
from foveate.networks.unet import UNet
from foveate.networks.window_unet import WindowUNet
from foveate.text import closest

NETWORKS: dict[str, type[nn.Module]] = {
    "unet": UNet,
    "window_unet": WindowUNet,
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
    refuse_end(config, plan)
    return NETWORKS[config.name](plan, channels, config)


def refuse_end(config: NetworkConfig, plan: Plan) -> None:
    """Raise InputError where the classes or the plan leave a CRF or a head nothing to work on."""
    if config.crf and (plan.regions or plan.tree):
        found = f"true, and {'regions that overlap' if plan.regions else 'a label tree'}"
        expected = "classes that exclude each other, between which a conditional random field decides"
        raise refuse("configuration", "network.crf", found, expected, "Leave it out: --set network.crf=false.")
    if config.head == "dense_upsampling" and len(plan.widths) < 2:
        found = "dense_upsampling, and a network of one stage"
        expected = "two stages: the finest of the decoder is left out"
        raise refuse("configuration", "network.head", found, expected, "Use network.head=convolution.")


__all__ = ["NETWORKS", "UNet", "WindowUNet", "build_network"]
