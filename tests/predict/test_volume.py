"""The regressor equals its brute-force definition, and pooled features measure what is in the scan."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foveate.config import MethodConfig, NetworkConfig
from foveate.errors import InputError
from foveate.io.volume import Volume
from foveate.methods import METHODS
from foveate.networks import build_network
from foveate.predict.model_file import load_model, save_model
from foveate.predict.volume import belief_features, encoder_features, fit_ridge, pooled
from foveate.tasks import build_task
from toys import tiny_plan


def solved(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Weights and intercept from the normal equations, the intercept without penalty."""
    design = np.column_stack([x, np.ones(len(x))])
    penalty = strength * np.diag([*[1.0] * x.shape[1], 0.0])
    *weight, intercept = np.linalg.solve(design.T @ design + penalty, design.T @ y)
    return np.array(weight), float(intercept)


@pytest.mark.parametrize("shape", [(9, 3), (6, 20)])
def test_the_strength_is_the_one_that_leaves_one_out_best(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, shape)
    y = x[:, 0] + rng.normal(0, 1, len(x))
    scaled = (x - x.mean(0)) / x.std(0)
    errors = {}
    for strength in (0.1, 1.0, 10.0, 100.0):
        squares = []
        for i in range(len(x)):
            kept = np.arange(len(x)) != i
            weight, intercept = solved(scaled[kept], y[kept], strength)
            squares.append((scaled[i] @ weight + intercept - y[i]) ** 2)
        errors[strength] = np.mean(squares)
    ridge = fit_ridge(x, y.tolist(), list(errors))
    assert ridge.strength == min(errors, key=errors.__getitem__)
    assert ridge.loo == pytest.approx(errors[ridge.strength])
    weight, intercept = solved(scaled, y, ridge.strength)
    np.testing.assert_allclose(ridge(x), scaled @ weight + intercept)


def test_a_feature_that_never_changes_is_no_harm() -> None:
    x = np.column_stack([np.arange(5.0), np.ones(5)])
    np.testing.assert_allclose(fit_ridge(x, [2.0, 4.0, 6.0, 8.0, 10.0])(x), [2, 4, 6, 8, 10], atol=0.05)


@pytest.mark.parametrize("dims", [2, 3])
def test_features_of_a_saved_stack_are_those_of_the_stack(dims: int, tmp_path: Path) -> None:
    plan = tiny_plan(dims)
    task = build_task(plan)
    method = METHODS["deep_belief"](build_network(NetworkConfig(), plan, task.channels), task, MethodConfig(), 0.0)
    with torch.no_grad():
        for layer in method.belief.layers:  # type: ignore[union-attr]
            layer.convolution.weight.normal_()
            layer.hidden.normal_()
    method.after_step(0)
    method.average.load_state_dict(method.network.state_dict())
    save_model(tmp_path, NetworkConfig(), {"name": "reconstruction"}, plan, method.model())
    model = load_model(tmp_path)
    x = torch.randn(1, 1, *(15, 12, 9)[:dims])
    expected = method.belief.features(x)  # type: ignore[operator, union-attr]
    for found, wanted in zip(belief_features(model)(x), expected, strict=True):
        assert torch.equal(found, wanted)
    for found, wanted in zip(encoder_features(model)(x), method.network.encode(x), strict=True):  # type: ignore[operator]
        assert torch.equal(found, wanted)


def test_a_model_that_is_no_belief_network_is_refused(tmp_path: Path) -> None:
    plan = tiny_plan(2)
    network = build_network(NetworkConfig(), plan, 3)
    save_model(tmp_path, NetworkConfig(), {"name": "segmentation"}, plan, network.state_dict())
    with pytest.raises(InputError, match="belief: found 0 tensors"):
        belief_features(load_model(tmp_path))


def test_pooling_measures_in_ml() -> None:
    """A feature that is one inside a box and zero outside is the volume of the box, whatever the voxels."""
    image = np.zeros((20, 10, 10), np.float32)
    image[5:15, 2:6, 2:6] = 100
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    plan = tiny_plan(3, spacing=(1.0, 2.0, 3.0))
    found = pooled(lambda x: [torch.cat([x > x.mean(), x < x.mean()], 1).float()], Volume(image[None], affine), plan)
    np.testing.assert_allclose(found, [10 * 4 * 4 * 6 / 1000, (2000 - 160) * 6 / 1000])
