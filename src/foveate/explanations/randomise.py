"""The parameter-randomisation check: a map that stays as it was when the weights are random says nothing of them.

Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3.1 (cascading randomisation).
Departures:

- The verdict is of the end of the cascade, when every weight is random. Randomising the decoder cannot change a map in
  the encoder, so that being alike after the first steps is no failing there; ``own_step`` says from where on the map's
  own layer is random.
- The end is repeated with several draws, and the rank correlation is averaged. One random gate may be open where the
  trained one is, or shut, by chance; over draws that cancels, while a map that ignores the weights stays at 1.
- A step is a stage of the network (an element of a ModuleList, or a module without one), not one layer.
- Modules draw new weights by their own ``reset_parameters``; parameters of modules without one become Gaussian noise of
  the same root mean square.
- Seg-Grad-CAM keeps summing over the region that the trained network predicted: a random network often predicts no
  voxel of the class, and an empty map would pass for nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from foveate.explanations.maps import Explainer, MapName
from foveate.explanations.similarity import constant, edges, rank_correlation, structural_similarity

# Mean rank correlation with the map of the trained network from which on a map of random weights is the same map.
SURVIVES = 0.5
DRAWS = 5  # random networks at the end of the cascade

Verdict = Literal["passes", "fails", "empty"]


@dataclass(frozen=True)
class Similarity:
    """To the map of the trained network. spearman: of absolute values."""

    spearman: float
    ssim: float

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray) -> Similarity:
        return cls(rank_correlation(a, b), structural_similarity(a, b))


@dataclass(frozen=True)
class Check:
    """What the cascade did to one map.

    verdict: ``empty`` where the trained network's map is the same everywhere, and there is nothing to compare.
    steps: similarity after every step of the cascade, in one draw. end: mean over draws when all is random;
    end_range: lowest and highest rank correlation among them. own_step: index of the step after which the map's own
    layer is random, None for a layer without weights. edges, image: how like the map an edge detector and the image
    itself are, neither of which knows a weight.
    """

    verdict: Verdict
    own_step: int | None
    steps: list[Similarity]
    end: Similarity
    end_range: tuple[float, float]
    edges: Similarity
    image: Similarity


def cascade(network: nn.Module, x: Tensor) -> list[tuple[str, list[str]]]:
    """The steps from the output to the input: (stage, modules that hold its parameters), in the reverse of
    the order in which a forward of ``x`` reaches them. One that does not run, such as a head of training alone, comes
    first."""
    stages = list(_stages(network, ""))
    reached: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            reached.setdefault(name, len(reached))

        return hook

    handles = [module.register_forward_pre_hook(note(name)) for name, module in network.named_modules()]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()

    def order(stage: str) -> int:
        inside = [place for name, place in reached.items() if name == stage or name.startswith(f"{stage}.")]
        return min(inside, default=len(reached))

    return sorted(stages, key=lambda stage: -order(stage[0]))


def _stages(module: nn.Module, name: str) -> Iterator[tuple[str, list[str]]]:
    divided = any(isinstance(inner, nn.ModuleList) for inner in module.modules())
    if divided:
        if _own(module):
            yield name, [name]
        for key, child in module.named_children():
            yield from _stages(child, f"{name}.{key}".lstrip("."))
        return
    owners = [f"{name}.{key}".strip(".") for key, inner in module.named_modules() if _own(inner)]
    if owners:
        yield name, owners


def _own(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def randomise(module: nn.Module) -> None:
    """New random values for the parameters of ``module`` itself, not of its submodules."""
    if callable(reset := getattr(module, "reset_parameters", None)):
        reset()
        return
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            parameter.normal_(std=max(float(parameter.square().mean().sqrt()), 1e-3))


@contextmanager
def _restored(network: nn.Module) -> Iterator[None]:
    state = copy.deepcopy(network.state_dict())
    try:
        yield
    finally:
        network.load_state_dict(state)


def check_maps(
    explainer: Explainer, x: Tensor, left: Collection[MapName] | None = None
) -> tuple[list[str], dict[MapName, Check]]:
    """Stages in the order in which they were randomised, and what that did to every map of the patch ``x [1, C, *S]``.

    left: the maps that another patch left unchecked, of which those are checked that are not the same everywhere here;
    where all are, nothing is made random. The network has its weights again afterwards. One forward pass for each step
    and draw, and its backward passes.
    """
    network = explainer.network
    regions = explainer.regions(x)
    trained = _arrays(explainer, x, regions)
    if left is not None:
        trained = {name: values for name, values in trained.items() if name in left and not constant(values)}
        if not trained:
            return [], {}
    steps = cascade(network, x)
    changed: list[dict[MapName, np.ndarray]] = []
    ends: list[dict[MapName, np.ndarray]] = []
    modules = dict(network.named_modules())
    devices = [x.device] if x.device.type == "cuda" else []
    with _restored(network), torch.random.fork_rng(devices):
        for draw in range(DRAWS):
            torch.manual_seed(draw)
            for _, owners in steps:
                for owner in owners:
                    randomise(modules[owner])
                if draw == 0:
                    changed.append(_arrays(explainer, x, regions))
            ends.append(changed[-1] if draw == 0 else _arrays(explainer, x, regions))
    image = x[0].cpu().numpy()
    image = image[~np.isnan(image).reshape(len(image), -1).any(1)]  # the modalities that are there
    baselines = edges(image), image.mean(0) - image.mean(0).min()  # maps are compared by their absolute values
    stages = [stage for stage, _ in steps]
    return stages, {
        name: _judge(values, [c[name] for c in changed], [e[name] for e in ends], baselines, _own_step(name, stages))
        for name, values in trained.items()
    }


def _judge(
    trained: np.ndarray,
    changed: list[np.ndarray],
    ends: list[np.ndarray],
    baselines: tuple[np.ndarray, np.ndarray],
    own_step: int | None,
) -> Check:
    steps = [Similarity.of(trained, other) for other in changed]
    last = [Similarity.of(trained, other) for other in ends]
    end = Similarity(float(np.mean([s.spearman for s in last])), float(np.mean([s.ssim for s in last])))
    verdict: Verdict = "fails" if end.spearman >= SURVIVES else "passes"
    return Check(
        "empty" if constant(trained) else verdict,
        own_step,
        steps,
        end,
        (min(s.spearman for s in last), max(s.spearman for s in last)),
        *(Similarity.of(trained, baseline) for baseline in baselines),
    )


def _own_step(name: MapName, stages: list[str]) -> int | None:
    layer = f"{name.layer}."
    own = [i for i, s in enumerate(stages) if layer.startswith(f"{s}.") or f"{s}.".startswith(layer)]
    return max(own, default=None)


def _arrays(explainer: Explainer, x: Tensor, regions: Tensor) -> dict[MapName, np.ndarray]:
    # Random weights may overflow; such a map is still to be compared.
    return {name: values[0, 0].nan_to_num().cpu().numpy() for name, values in explainer(x, regions).items()}
