"""Deep belief network: pre-training that teaches the encoder's first convolutions to tell scans from noise; no label.

Sources: Hinton, Osindero & Teh, Neural Computation 2006 (greedy, layer by layer); Hinton, Neural Computation 2002
(contrastive divergence, CD-k); Tieleman, ICML 2008 (persistent chains, PCD). The machines, and what an encoder takes
over of them, are in networks/dbn.py.
The loss is F(v) - F(v'), v' drawn from the machine and without gradient: its gradient is E_data dF - E_model dF, the
negative gradient of the log-likelihood as CD-k or PCD estimates it. The loss itself is no likelihood and says nothing;
what to look at is the free energy of scans held back against that of scans that teach.
Departures: free energies are divided by the number of visible units, which no optimiser here minds; AdamW, with the
engine's one learning-rate curve over all layers, so that each layer starts at the rate at which the one below ended;
averaged kernels are saved, as by every method, with biases of the last step; PCD keeps one chain per image of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from foveate.batches.sampler import Batch
from foveate.cohort.plan import Plan
from foveate.config import MethodConfig
from foveate.methods.method import Builder, Method, Turn, randomness
from foveate.networks.dbn import DeepBeliefNetwork, pass_through
from foveate.tasks import Segmentation


class DeepBelief(Method):
    """Trains one layer after the other, each for the same share of training, on what the layers below make of a scan.

    ``gibbs_steps`` is k; ``persistent`` keeps the chains from step to step. ``start``, ``ramp``, ``unlabelled_weight``
    and ``confidence`` mean nothing here: there is one loss, from the start.
    """

    reason: ClassVar[str] = "trains the encoder of a U-Net for segmentation"

    learns_labels: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ("gibbs_steps", "persistent")
    watches_images: ClassVar[bool] = True

    def __init__(
        self, network: nn.Module, task: Segmentation, config: MethodConfig, decay: float, build: Builder | None = None
    ) -> None:
        taken = pass_through(network)  # before the average is made of it
        super().__init__(network, task, config, decay, build)
        self.taken, self.belief = tuple(taken), DeepBeliefNetwork(network)
        if config.persistent:
            plan: Plan = network.decoder.built_from[0]  # type: ignore[index, union-attr, assignment]
            x = torch.zeros(plan.batch, len(plan.channels), *plan.patch)
            for depth, seen in enumerate([x, *self.belief.features(x)[:-1]]):
                start = torch.randn_like(seen) if depth == 0 else torch.rand_like(seen).round()
                self.register_buffer(f"chains_{depth}", start)

    def players(self) -> dict[str, nn.Module]:
        return {"network": nn.ModuleList([self.network, self.belief])}

    def shares(self, batch: int, progress: float, pool: float = 1.0) -> tuple[int, int]:
        return 0, batch

    def layer(self, progress: float) -> int:
        """The layer that is trained now, from 0."""
        return min(int(progress * len(self.belief.layers)), len(self.belief.layers) - 1)

    def turns(self, batch: Batch, progress: float) -> Iterator[Turn]:
        images = torch.cat([batch.images, batch.weak])  # [B, C, *S]; a labelled scan is an image like any other
        depth, random = self.layer(progress), randomness(batch)
        data = self.below(images, depth)
        # Data first: casts of the weights that autocast keeps from a pass without gradient would have none.
        energy = self.energy(data, depth)
        chains = getattr(self, f"chains_{depth}") if self.config.persistent else data
        model = self.belief.layers[depth].gibbs(chains, self.config.gibbs_steps, random)  # type: ignore[operator]
        if self.config.persistent:
            chains.copy_(model)
        yield "network", {f"layer {depth + 1}": energy.mean() - self.energy(model, depth).mean()}

    @torch.no_grad()
    def below(self, images: Tensor, depth: int) -> Tensor:
        """What the layer ``depth`` sees of images ``[B, C, *S]``."""
        return self.belief.features(images, depth)[-1] if depth else images

    def energy(self, v: Tensor, depth: int) -> Tensor:
        """Free energy of every ``v [B, C, *S]`` by visible unit, ``[B]``."""
        energy: Tensor = self.belief.layers[depth].free_energy(v)  # type: ignore[operator]
        return energy / v[0].numel()

    def model(self) -> dict[str, Tensor]:
        """What an encoder takes over, and the machines' own biases."""
        encoder = {key: value for key, value in super().model().items() if key.startswith(self.taken)}
        return encoder | {f"belief.{key}": value for key, value in self.belief.state_dict().items()}
