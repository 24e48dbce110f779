"""Every map of a network for a window: one forward pass, and a backward pass for each class and kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from foveate.errors import refuse
from foveate.explanations.attention import attention_blocks, watching, weighs_channels
from foveate.explanations.grad_cam import class_activation, default_layers, find_layers, frozen, recording
from foveate.layers import interpolate
from foveate.tasks import Segmentation

Kind = Literal["evidence", "attention", "seg_grad_cam", "grad_cam"]
_TITLES = {"attention": "Attention", "seg_grad_cam": "Seg-Grad-CAM", "grad_cam": "Grad-CAM"}


@dataclass(frozen=True)
class MapName:
    """One map. layer: name of the block or layer in the network. channel: of the logits, for maps of a class; of the
    input, for attention to a modality."""

    kind: Kind
    layer: str
    channel: int | None = None
    of: str = ""  # the class or modality

    @property
    def title(self) -> str:
        """For people."""
        if self.kind == "evidence":
            return f"Evidence for {self.of}"
        of = f" {'to' if self.kind == 'attention' else 'of'} {self.of}" if self.of else ""
        return f"{_TITLES[self.kind]}{of} at {self.layer}"

    def applies(self, image: np.ndarray) -> bool:
        """Whether ``image [C, *S]`` has what the map is of: nothing attends to a modality that is missing, NaN."""
        return self.kind != "attention" or self.channel is None or not np.isnan(image[self.channel]).any()


class Explainer:
    """The maps of a network for windows.

    answer: windows ``[B, C, *window]`` -> logits ``[B, K, *window]``, by running ``network``. layers: names of those
    that class activations are taken at; by default see ``default_layers``.
    Raises InputError for a layer that the network does not have.
    """

    def __init__(
        self,
        network: nn.Module,
        task: Segmentation,
        answer: Callable[[Tensor], Tensor],
        layers: Sequence[str] = (),
    ) -> None:
        self.network, self.task, self.answer = network, task, answer
        self.layers = find_layers(network, list(layers) or default_layers(network))
        self.blocks = attention_blocks(network)
        # Block -> sums over windows of its channel weights [C], and how many windows these were.
        self.channel_weights: dict[str, tuple[Tensor, int]] = {}

    def attention(self, x: Tensor) -> tuple[dict[MapName, Tensor], Tensor]:
        """The map ``[B, 1, *window]`` of every block that has one, and the logits, by one forward pass of ``x``."""
        with torch.no_grad(), watching(self.blocks) as weights:
            logits = self.answer(x)
        found = self._of_blocks(weights, x.shape[2:])
        return {name: self.at_voxels(values, x.shape[2:]) for name, values in found.items()}, logits

    def regions(self, x: Tensor) -> Tensor:
        """Where the network's label of ``x`` belongs to each channel: 0 or 1, ``[B, K, *window]``."""
        with torch.no_grad():
            return self._regions(self.answer(x))

    def __call__(self, x: Tensor, regions: Tensor | None = None) -> dict[MapName, Tensor]:
        """Every map of windows ``x [B, C, *window]``, each ``[B, 1, *window]`` in float32.

        regions: over which Seg-Grad-CAM sums the logits; by default what is predicted here.
        """
        with torch.enable_grad(), frozen(self.network):
            with watching(self.blocks) as weights, recording(self.layers) as features:
                logits = self.answer(x)
            maps = self._of_blocks(weights, x.shape[2:])
            if missing := [layer for layer in self.layers if layer not in features]:
                fix = "Name a layer that the network runs, and not only its weights."
                raise refuse("network", "layer", f"{missing[0]}, which did not run", "one that runs", fix)
            maps |= self.of_classes(x, logits, features, regions)
        return {name: self.at_voxels(values, x.shape[2:]) for name, values in maps.items()}

    def of_classes(
        self, x: Tensor, logits: Tensor, features: dict[str, Tensor], regions: Tensor | None
    ) -> dict[MapName, Tensor]:
        """Seg-Grad-CAM and Grad-CAM of every class at every layer."""
        inside = self._regions(logits.detach()) if regions is None else regions
        kinds: tuple[tuple[Kind, Tensor], ...] = (("seg_grad_cam", inside), ("grad_cam", torch.ones_like(inside)))
        maps: dict[MapName, Tensor] = {}
        for kind, where in kinds:
            for channel, of in enumerate(self.task.names[self.task.first :], self.task.first):
                score = (logits[:, channel] * where[:, channel]).sum()
                maps |= self.activations(kind, channel, of, score, features)
        return maps

    def activations(
        self, kind: Kind, channel: int, of: str, score: Tensor, features: dict[str, Tensor]
    ) -> dict[MapName, Tensor]:
        """Class activation of a score, a sum over images, at every layer."""
        found = class_activation(score, list(features.values()))
        return {MapName(kind, layer, channel, of): values for layer, values in zip(features, found, strict=True)}

    def at_voxels(self, values: Tensor, size: Sequence[int]) -> Tensor:
        """A map of features at the voxels of the window."""
        # A position stands for the block of voxels that the decoder makes of it. The strided encoder sees half a stride
        # lower, but what it has learnt to answer for is the block: class activations of six trained networks were
        # shifted to neither side.
        return interpolate(values, size)

    def _of_blocks(self, weights: dict[str, Tensor], window: Sequence[int]) -> dict[MapName, Tensor]:
        """The maps among the blocks' weights, on the blocks' own grids; weights of channels are added up."""
        maps: dict[MapName, Tensor] = {}
        for block, found in weights.items():
            if modalities := getattr(self.blocks[block], "modalities", ()):
                each = zip(modalities, found.split(1, dim=1), strict=True)
                maps |= {MapName("attention", block, i, of): values for i, (of, values) in enumerate(each)}
            elif weighs_channels(found, tuple(window)):
                self._add_channel_weights(block, found)
            else:
                maps[MapName("attention", block)] = found.mean(1, keepdim=True)
        return maps

    def _regions(self, logits: Tensor) -> Tensor:
        return self.task.encode(self.task.decode(logits)).values

    def _add_channel_weights(self, block: str, weights: Tensor) -> None:
        total, count = self.channel_weights.get(block, (torch.zeros(weights.shape[1]), 0))
        self.channel_weights[block] = (total + weights.flatten(1).sum(0).cpu(), count + len(weights))
