"""Grad-CAM and Seg-Grad-CAM: where a layer's features speak for a class.

Sources: Selvaraju et al., "Grad-CAM", ICCV 2017, eq. 1-2; Vinogradova et al., "Towards Interpretable Semantic
Segmentation via Gradient-weighted Class Activation Mapping", AAAI 2020, eq. 1. Departure: Grad-CAM is defined for the
one score of a classifier; here the score is the sum of the class's logit over all voxels of the window (as in MONAI),
and over the voxels that the network gives to the class in Seg-Grad-CAM.

Own code and not MONAI's or captum's: MONAI's GradCAM takes the sum over all voxels alone, leaves its hooks in the
network and runs it once for every class; captum would be one more dependency for what autograd does in a line. The
tests hold this file against MONAI's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import refuse
from foveate.text import closest


def default_layers(network: nn.Module) -> list[str]:
    """The bottleneck, where features are most abstract, and the last decoder stage but one, for detail.

    Not the last stage: logits are linear in it, and its Grad-CAM is the logit map itself, less the bias.
    Raises InputError for a network that has neither.
    """
    names = dict(network.named_modules())
    stages = [name for name in names if name.rpartition(".")[0] == "decoder.stages"]
    layers = [name for name in ("bottleneck", *stages[-2:-1]) if name in names]
    if not layers:
        raise refuse("network", "layer", "no bottleneck, no decoder.stages", "a layer for Grad-CAM", "Name one.")
    return layers


def find_layers(network: nn.Module, names: list[str]) -> dict[str, nn.Module]:
    """Modules by name. Raises InputError for a name that the network does not have, and for a layer whose channels come
    last: its shape may be that of a feature map, and what were taken for channels would be rows of the image."""
    modules = dict(network.named_modules())
    for name in names:
        if not name or name not in modules:
            raise refuse("network", "layer", name, "a module of the network", closest(name, modules))
        if inner := channels_last(modules, name):
            outer = inner.rpartition(".")[0]
            while isinstance(modules[outer], nn.ModuleList):
                outer = outer.rpartition(".")[0]
            fix = f"Name one around it: {outer}." if outer else "Name another layer."
            raise refuse("network", f"output of {name}", "[B, ..., C], channels last", "a feature map [B, C, *S]", fix)
    return {name: modules[name] for name in names}


def channels_last(modules: Mapping[str, nn.Module], name: str) -> str:
    """The outermost module around a layer, or the layer itself, that answers ``[B, ..., C]``; "" for none.

    Such are linear layers, layer normalisations and what says ``channels_last``, with all that they are made of, and
    a sequence that ends in one.
    """
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        module = modules[found := ".".join(parts[:depth])]
        while isinstance(module, nn.Sequential) and len(module):
            module = module[-1]
        if isinstance(module, nn.Linear | nn.LayerNorm) or getattr(module, "channels_last", False):
            return found
    return ""


@contextmanager
def recording(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """While inside, every forward leaves the outputs ``[B, C, *s]`` of ``layers``, which gradients can be taken of.

    The graph begins at the earliest of the layers where nothing before it wants a gradient. No output changes, and the
    hooks are gone afterwards. Raises InputError for a layer whose output is no feature map.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor) or output.ndim < 4:
                kind = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise refuse("network", f"output of {name}", kind, "a feature map [B, C, *S]", "Name another layer.")
            found[name] = output if output.requires_grad else output.detach().requires_grad_()
            return found[name].clone()  # what comes next may work in place

        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """While inside, no parameter wants a gradient: only what ``recording`` kept does."""
    wanted = [p for p in network.parameters() if p.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def class_activation(score: Tensor, features: list[Tensor]) -> list[Tensor]:
    """relu(sum_c mean(d score / d A_c) A_c) of each feature ``A [B, C, *s]``: ``[B, 1, *s]``, zero without a gradient.

    score: a sum over the images of the batch. Its graph is kept.
    """
    gradients = torch.autograd.grad(score, features, retain_graph=True, materialize_grads=True, allow_unused=True)
    out = []
    for feature, gradient in zip(features, gradients, strict=True):
        weights = gradient.flatten(2).mean(2)  # [B, C]
        out.append(torch.einsum("bc,bc...->b...", weights, feature.detach()).relu()[:, None].float())
    return out
