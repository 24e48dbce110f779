"""Networks by the name they have on the command line.

Contract: ``Network(plan, channels, config)``. ``forward(x)`` takes ``[B, C, *S]`` with S divisible by the product of
the strides; in training it returns logits at full and, with deep supervision, at coarser resolutions (a list,
finest first); in evaluation the finest alone ``[B, K, *S]``. ``encode(x)`` gives the features, finest first, that the
module ``decoder`` turns into logits; ``forward(x, perturb)`` applies ``perturb`` to each of them on the way.
``image_channels`` is C. A network that says ``takes_missing`` answers images of which some channels are missing, NaN
in their place; the others need them all. A decoder of the class ``Decoder`` may end in another head or in a CRF; then
the image is the last of the features. ``tasks`` names what a network answers; that of a whole image returns
``[B, K]``. ``DEFAULTS`` names the network that a task trains where none is asked for.
"""

from torch import nn

from foveate.cohort.plan import Plan
from foveate.config import NetworkConfig
from foveate.errors import refuse
from foveate.networks.attention_cnn import AttentionCNN
from foveate.networks.attention_unet import AttentionUNet, PyramidUNet
from foveate.networks.classifier import Classifier
from foveate.networks.detector import Detector
from foveate.networks.dual_attention import DualAttentionUNet
from foveate.networks.fusion_unet import FusionUNet
from foveate.networks.hybrid import HybridUNet
from foveate.networks.ms_can import MultiScaleUNet
from foveate.networks.unet import UNet
from foveate.networks.window_unet import WindowUNet
from foveate.text import closest

NETWORKS: dict[str, type[UNet] | type[Classifier]] = {
    "unet": UNet,
    "window_unet": WindowUNet,
    "fusion_unet": FusionUNet,
    "dual_attention": DualAttentionUNet,
    "hybrid": HybridUNet,
    "attention_unet": AttentionUNet,
    "spp_attention": PyramidUNet,
    "ms_can": MultiScaleUNet,
    "classifier": Classifier,
    "attention_cnn": AttentionCNN,
    "detector": Detector,
}
DEFAULTS = {"segmentation": "unet", "classification": "classifier", "regression": "classifier", "detection": "detector"}


def network_class(config: NetworkConfig) -> type[UNet] | type[Classifier]:
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


def settle_network(config: NetworkConfig, task: str) -> NetworkConfig:
    """The configuration with the task's own network where none was asked for. Raises InputError for an unknown name and
    for a network that does not answer the task."""
    if "name" not in config.model_fields_set:
        config = config.model_copy(update={"name": DEFAULTS[task]})
    if task not in network_class(config).tasks:
        able = [name for name, network in NETWORKS.items() if task in network.tasks]
        found = f"{config.name}, which is for {' and '.join(network_class(config).tasks)}"
        fix = f"Leave it out, or give --network {able[0]}."
        raise refuse("configuration", "network.name", found, f"a network for {task}: {', '.join(able)}", fix)
    return config


def build_network(config: NetworkConfig, plan: Plan, channels: int) -> nn.Module:
    """The network of the configuration with ``channels`` logit maps. Raises InputError for an unknown name, and for a
    CRF or a head that classes or plan leave nothing to work on."""
    network = network_class(config)
    refuse_end(config, plan)
    return network(plan, channels, config)


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


__all__ = ["DEFAULTS", "NETWORKS", "build_network", "network_class", "settle_network"]
