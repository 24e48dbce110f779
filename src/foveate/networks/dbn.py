"""Deep belief network: convolutional restricted Boltzmann machines, stacked over the first convolutions of an encoder.

Sources: Hinton, Osindero & Teh, "A fast learning algorithm for deep belief nets", Neural Computation 2006; Lee et al.,
"Convolutional deep belief networks", ICML 2009; Hinton, "A practical guide to training restricted Boltzmann machines",
2012 (units, initial weights, free energy).
    E(v, h) = 1/2 ||v - c||^2 - <h, W * v + b>      F(v) = 1/2 ||v - c||^2 - sum_{k,p} softplus(b_k + (W_k * v)_p)
Departures: the geometry is the encoder's, so hidden units lie "same"-padded and strided, where Lee convolves without
padding and pools by probability; no sparsity penalty; above the first layer visible units are binary, as Hinton's
and Lee's, and their values are the probabilities of the layer below, not samples.

What an encoder takes over. A layer's kernels *are* those of the first convolution of its stage: shape, stride and
padding are one. The stage then normalises per instance and rectifies where the machine has b_k and a sigmoid; scale
and b_k of a unit have no counterpart before an instance normalisation and are lost. A residual stage mixes channels
again behind that convolution, which no layer has taught: ``pass_through`` starts its second convolution as the
identity and its projection at zero, so that at first a stage hands on what its units saw, each rising with its unit.
From the second stage on kernels meet these rectified features and not the probabilities that they were taught on.
Without a projection (equal widths, no stride) the shortcut adds the stage's input, which no layer has either.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.errors import refuse
from foveate.networks.unet import Residual

START = 0.01  # standard deviation of the first weights (Hinton 2012, sec. 8)
_CONV_TRANSPOSE: dict[int, Any] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


class RBM(nn.Module):
    """A machine over visible ``v [B, C, *S]`` and binary hidden ``h [B, K, *S']`` units, S' that of ``convolution``.

    convolution: its kernels W; it belongs to a network and is trained and saved there. Its bias, if any, is b.
    binary: visible units are 0 or 1, E = -<c, v> - <h, W * v + b>; else Gaussian of variance 1.
    """

    convolution: Any

    def __init__(self, convolution: nn.Module, binary: bool = False) -> None:
        super().__init__()
        # Not as a submodule: the weights would be in a checkpoint twice.
        object.__setattr__(self, "convolution", convolution)
        self.binary = binary
        weight = self.convolution.weight
        self.visible = nn.Parameter(weight.new_zeros(weight.shape[1]))  # c
        self.hidden = nn.Parameter(weight.new_zeros(weight.shape[0])) if self.convolution.bias is None else None

    def inputs(self, v: Tensor) -> Tensor:
        """b_k + (W_k * v)_p, ``[B, K, *S']``: the log-odds of every hidden unit."""
        x: Tensor = self.convolution(v).to(self.visible.dtype)
        return x if self.hidden is None else x + _spread(self.hidden, x)

    def reconstruct(self, h: Tensor, size: Sequence[int]) -> Tensor:
        """Mean of v given h, ``[B, C, *size]``: c + W^T h, or its sigmoid."""
        x = adjoint(self.convolution, h, size).to(self.visible.dtype)
        x = x + _spread(self.visible, x)
        return x.sigmoid() if self.binary else x

    def free_energy(self, v: Tensor) -> Tensor:
        """-log sum_h exp(-E(v, h)), ``[B]``: a sum over all units."""
        c = _spread(self.visible, v)
        own = -c * v if self.binary else (v - c).square() / 2
        return own.flatten(1).sum(1) - F.softplus(self.inputs(v)).flatten(1).sum(1)

    @torch.no_grad()
    def gibbs(self, v: Tensor, steps: int, random: torch.Generator) -> Tensor:
        """v after so many steps of h ~ p(h | v), v ~ p(v | h)."""
        for _ in range(steps):
            h = _bernoulli(self.inputs(v).sigmoid(), random)
            mean = self.reconstruct(h, v.shape[2:])
            v = _bernoulli(mean, random) if self.binary else mean + _like(torch.randn, mean, random)
        return v


class DeepBeliefNetwork(nn.Module):
    """The machines over an encoder's stages, finest first: Gaussian visible units below, binary ones above."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        convolutions = first_convolutions(network).values()
        self.layers = nn.ModuleList(RBM(layer, binary=depth > 0) for depth, layer in enumerate(convolutions))

    def features(self, x: Tensor, layers: int | None = None) -> list[Tensor]:
        """Image ``[B, C, *S]`` -> probabilities of the hidden units, of the first ``layers`` layers, finest first."""
        found = []
        for layer in itertools.islice(self.layers, layers):
            x = layer.inputs(x).sigmoid()  # type: ignore[operator]
            found.append(x)
        return found


def adjoint(convolution: Any, h: Tensor, size: Sequence[int]) -> Tensor:
    """W^T h: ``[B, K, *S'] -> [B, C, *size]`` with <W * v, h> = <v, W^T h>, for every size that gives S'."""
    weight, stride, padding = convolution.weight, convolution.stride, convolution.padding
    spare = [(n + 2 * p - k) % s for n, p, k, s in zip(size, padding, weight.shape[2:], stride, strict=True)]
    x: Tensor = _CONV_TRANSPOSE[len(size)](h, weight, None, stride, padding, spare)
    return x


def first_convolutions(network: nn.Module) -> dict[str, nn.Module]:
    """The first convolution of each encoder stage, by its name in the network, finest first.

    Raises InputError for a network in which they do not make a stack: the first must take the image, and each of the
    others what the one before gives.
    """
    found: dict[str, nn.Module] = {}
    width: Any = getattr(network, "image_channels", None)  # a stem of one modality takes less than the image
    stages: Any = getattr(network, "encoder", [])
    for depth, stage in enumerate(stages):
        name, layer = next(
            ((n, m) for n, m in stage.named_modules() if isinstance(m, nn.Conv2d | nn.Conv3d)), ("", None)
        )
        if layer is None or layer.groups != 1 or width != layer.in_channels:
            found.clear()
            break
        found[f"encoder.{depth}.{name}"], width = layer, layer.out_channels
    if not found:
        kind = type(network).__name__
        wanted = "an encoder of stages whose first convolutions make a stack"
        raise refuse("configuration", "network.name", kind, wanted, "Pre-train with masked_autoencoder, or a unet.")
    return found


@torch.no_grad()
def pass_through(network: nn.Module) -> list[str]:
    """Draw the weights of the stack anew, small, and start every residual stage so that it hands on what its units
    see; the names, or first parts of names, of all tensors that an encoder takes over."""
    names = []
    for depth, (name, layer) in enumerate(first_convolutions(network).items()):
        nn.init.normal_(layer.weight, std=START)  # type: ignore[arg-type]
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        block = network.encoder[depth][0]  # type: ignore[index, union-attr]
        if isinstance(block, Residual):
            nn.init.dirac_(block.body[3].weight)  # type: ignore[arg-type]
            if not isinstance(block.shortcut, nn.Identity):
                nn.init.zeros_(block.shortcut.weight)  # type: ignore[arg-type]
            name = f"encoder.{depth}.0"
        names.append(f"{name}.")
    return names


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """``[C]`` as ``[C, 1, ...]``, to be added to ``[B, C, *S]``."""
    return values.view(-1, *[1] * (x.ndim - 2))


def _like(draw: Any, x: Tensor, random: torch.Generator) -> Tensor:
    drawn: Tensor = draw(x.shape, dtype=x.dtype, device=x.device, generator=random)
    return drawn


def _bernoulli(p: Tensor, random: torch.Generator) -> Tensor:
    return (_like(torch.rand, p, random) < p).to(p.dtype)
