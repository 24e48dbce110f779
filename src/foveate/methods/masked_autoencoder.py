"""Masked autoencoder: pre-training that hides blocks of every scan and learns to fill them in; no label is used.

Source: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022. A convolutional network in place of
the transformer as in Zhou et al., "Models Genesis", Medical Image Analysis 2021, and Tian et al., "Designing BERT for
convolutional networks" (SparK), ICLR 2023.
Departures: hidden voxels are zero, the mean of a normalised image, and dense convolutions run over them (He drops
them, SparK skips them by sparse convolutions, Genesis fills in noise); 60% are hidden, as in SparK (He: 75%); the
decoder of the network itself reconstructs and is kept for what is trained afterwards (He and SparK throw theirs away,
as is done here where the network has none); the target is the image as preparation normalised it, not each block by
itself; blocks are an eighth of the patch along each axis, so that they follow the plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from foveate.batches.sampler import Batch
from foveate.config import MethodConfig
from foveate.methods.method import ANY_TASK, BOXES, Builder, Method, Turn
from foveate.tasks import Task

HIDDEN = 0.6  # share of the blocks
HEADS = ("decoder.heads.", "pool.", "head.")  # weights that learn nothing here
BLOCKS = 8  # along each axis of the patch; fewer where it has fewer voxels


class MaskedAutoencoder(Method):
    """Trains the network below its heads, with a restorer; the heads stay as they are and are not saved.

    ``start``, ``ramp``, ``unlabelled_weight`` and ``confidence`` mean nothing here: there is one loss, from the start.
    """

    tasks: ClassVar[tuple[str, ...]] = (*ANY_TASK, BOXES)
    learns_labels: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, network: nn.Module, task: Task, config: MethodConfig, decay: float, build: Builder | None = None
    ) -> None:
        super().__init__(network, task, config, decay, build)
        self.restorer = network.restorer()  # type: ignore[operator]

    def players(self) -> dict[str, nn.Module]:
        return {"network": nn.ModuleList([self.network, self.restorer])}

    def shares(self, batch: int, progress: float, pool: float = 1.0) -> tuple[int, int]:
        return 0, batch

    def turns(self, batch: Batch, progress: float) -> Iterator[Turn]:
        images = torch.cat([batch.images, batch.weak])  # [B, C, *S]; a labelled scan is an image like any other
        hidden = hidden_blocks(len(images), images.shape[2:], batch.seed).to(images.device)
        yield "network", {"reconstruction": error(self.reconstruct(images * ~hidden), images, hidden)}

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images ``[B, C, *S]`` as the network fills them in."""
        answer: Tensor = self.network.restore(images, self.restorer)  # type: ignore[operator]
        return answer

    def model(self) -> dict[str, Tensor]:
        return {key: value for key, value in super().model().items() if not key.startswith(HEADS)}


def error(answer: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over hidden voxels of the channels that are there. ``[B, C, *S]`` twice; hidden ``[B, 1, *S]``
    bool."""
    known = hidden & ~images.isnan()  # [B, C, *S]
    squares = (answer.float() - images.nan_to_num()).square() * known
    return squares.sum() / known.sum().clamp_min(1)


def hidden_blocks(count: int, size: Sequence[int], seed: int) -> Tensor:
    """``[count, 1, *size]`` bool, true = hidden: of each image its own blocks, always the share HIDDEN of them."""
    block = [max(round(n / BLOCKS), 1) for n in size]
    cells = [math.ceil(n / b) for n, b in zip(size, block, strict=True)]
    order = torch.rand(count, math.prod(cells), generator=torch.Generator().manual_seed(seed)).argsort(1)
    hidden = torch.zeros(order.shape, dtype=torch.bool)
    hidden.scatter_(1, order[:, : round(HIDDEN * math.prod(cells))], True)
    hidden = hidden.view(count, 1, *cells)
    for axis, (b, n) in enumerate(zip(block, size, strict=True), 2):
        hidden = hidden.repeat_interleave(b, axis).narrow(axis, 0, n)
    return hidden
