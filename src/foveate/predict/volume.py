"""Volume of a structure straight from the scan: pooled features of a frozen network, and ridge regression on them.

Source: Zhen et al., "Multi-scale deep networks and regression forests for direct bi-ventricular volume estimation",
Medical Image Analysis 2016: features of a convolutional deep belief network, learnt without labels, then a regressor.
Departures: ridge regression in place of a random forest, as there are tens of labels and not thousands; features are
summed over the scan, as volume is, so that scans may differ in size; the stack stays frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from foveate.batches.prepare import prepare_volume
from foveate.cohort.plan import Plan
from foveate.errors import refuse
from foveate.io.volume import Volume
from foveate.networks import build_network
from foveate.networks.dbn import DeepBeliefNetwork
from foveate.predict.model_file import WEIGHTS, SavedModel
from foveate.tasks import build_task

STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-6, 11))  # of the penalty, on standardised features
Features = Callable[[Tensor], list[Tensor]]  # image [1, C, *S] -> [1, K_i, *S_i]


@dataclass(frozen=True)
class Ridge:
    """y = mean + <weight, (x - centre) / scale>. loo: mean squared error of leaving one out, at the chosen strength."""

    centre: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    mean: float
    strength: float
    loo: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features ``[N, D]`` -> ``[N]``."""
        answer: np.ndarray = self.mean + (features - self.centre) / self.scale @ self.weight
        return answer


def fit_ridge(features: np.ndarray, volumes: Sequence[float], strengths: Sequence[float] = STRENGTHS) -> Ridge:
    """Ridge regression of ``volumes [N]`` on ``features [N, D]``, N > 1, of the strength that leaves one out best.

    With X centred and scaled, X = U S V^T, the residual of a case that is left out is e_i / (1 - H_ii),
    H = 1/N + U S^2 / (S^2 + strength) U^T. Centre and scale are those of all N cases.
    """
    y = np.asarray(volumes, float)
    centre, deviation = features.mean(0), features.std(0)
    scale = np.where(deviation > 0, deviation, 1.0)
    u, s, vt = np.linalg.svd((features - centre) / scale, full_matrices=False)
    target = u.T @ (y - y.mean())

    def left_out(strength: float) -> float:
        shrink = s**2 / (s**2 + strength)
        residual = y - y.mean() - u @ (shrink * target)
        return float(np.mean((residual / (1 - 1 / len(y) - (u**2 * shrink).sum(1))) ** 2))

    errors = {strength: left_out(strength) for strength in strengths}
    best = min(errors, key=errors.__getitem__)
    weight = vt.T @ (s / (s**2 + best) * target)
    return Ridge(centre, scale, weight, float(y.mean()), best, errors[best])


def belief_features(model: SavedModel) -> Features:
    """Probabilities of the hidden units of a network that ``deep_belief`` has taught, layer by layer.

    Raises InputError for a model of anything else.
    """
    belief = DeepBeliefNetwork(_network(model))
    own = {key.removeprefix("belief."): value for key, value in model.state.items() if key.startswith("belief.")}
    if own.keys() != belief.state_dict().keys():
        fix = "Train it with --method deep_belief."
        raise refuse(model.folder / WEIGHTS, "belief", f"{len(own)} tensors", "those of a deep belief network", fix)
    belief.load_state_dict(own)
    return belief.features


def encoder_features(model: SavedModel) -> Features:
    """What the encoder of a saved model makes of an image, stage by stage."""
    return _network(model).eval().encode  # type: ignore[return-value]


def _network(model: SavedModel) -> nn.Module:
    network = build_network(model.network, model.plan, build_task(model.plan).channels)
    network.load_state_dict(model.state, strict=False)  # pre-training leaves no heads, or no decoder
    return network


@torch.no_grad()
def pooled(features: Features, scan: Volume, plan: Plan) -> np.ndarray:
    """Sum over the scan of every feature map, times mL per position: ``[D]``, D = K_1 + K_2 + ...

    In mL (mm^2 / 1000 for pictures), so that a unit that is on inside a structure measures it. The scan is seen whole.
    """
    image, _ = prepare_volume(scan, plan)
    whole = math.prod(image.shape[1:]) * math.prod(plan.spacing) / 1000
    return np.concatenate([f[0].flatten(1).mean(1).double().numpy() * whole for f in features(image[None])])
