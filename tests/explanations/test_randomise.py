"""A map that ignores the weights is caught; one that follows them is not; and the network is as it was."""

import numpy as np
import pytest
import torch
from scipy import stats
from tests.toys import scan, tiny_plan
from torch import nn

from foveate.config import NetworkConfig
from foveate.explanations.maps import Explainer
from foveate.explanations.randomise import SURVIVES, cascade, check_maps, randomise
from foveate.explanations.similarity import constant, edges, rank_correlation, structural_similarity
from foveate.networks import build_network
from foveate.tasks import build_task


class EdgeDetector(nn.Module):
    """A block whose "attention" is the edges of what it is given: it has a weight, and does not look at it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def attention(self, x):
        return torch.from_numpy(np.stack([edges(image) for image in x.numpy()]))[:, None].float()

    def forward(self, x):
        return x * self.weight


class Edged(nn.Module):
    """A network whose first block is the edge detector, on the image itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.first, self.network = EdgeDetector(), network

    def forward(self, x):
        return self.network(self.first(x))


@pytest.fixture(scope="module")
def trained():
    """A U-Net with gates that has learned the toy balls, behind an edge detector; and an image."""
    torch.manual_seed(0)
    plan = tiny_plan(2)
    task = build_task(plan)
    network = Edged(build_network(NetworkConfig(attention={"skip": "gate"}), plan, task.channels))
    random = np.random.default_rng(0)
    pairs = [scan((32, 32), random) for _ in range(9)]
    images = torch.from_numpy(np.stack([image for image, _ in pairs]))[:, None]
    labels = torch.from_numpy(np.stack([label for _, label in pairs]))
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        sum(task.loss(network(images[:8]), task.encode(labels[:8])).values()).backward()
        optimiser.step()
    network.eval()
    with torch.no_grad():
        assert task.mean_dice(task.decode(network(images[8:]))[0].numpy(), labels[8].numpy()) > 0.8
    layers = ["network.bottleneck", "network.decoder.stages.0"]
    return network, Explainer(network, task, network, layers), images[8:]


def test_a_map_that_ignores_the_weights_fails_and_trained_gates_get_their_numbers(trained) -> None:
    network, explainer, x = trained
    state = {key: value.clone() for key, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    stages, checks = check_maps(explainer, x)
    by_layer = {(name.kind, name.layer, name.of): check for name, check in checks.items()}
    fake = by_layer["attention", "first", ""]
    assert fake.verdict == "fails"
    assert fake.end.spearman == pytest.approx(1)
    assert fake.end.ssim == pytest.approx(1)
    assert fake.edges.spearman == pytest.approx(1)
    assert stages[fake.own_step] == "first"
    assert len(checks) == 3 + 2 * 2 * 2
    for check in checks.values():
        assert len(check.steps) == len(stages)
        assert check.verdict == ("fails" if check.end.spearman >= SURVIVES else "passes")
        assert check.end_range[0] <= check.steps[-1].spearman <= check.end_range[1]
    # What is learned does not come back by chance.
    assert by_layer["seg_grad_cam", "network.decoder.stages.0", "front"].verdict == "passes"
    assert by_layer["attention", "network.decoder.stages.1.skip_attention", ""].end.spearman < 0.99
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    # The same draws every time.
    assert check_maps(explainer, x)[1] == checks


def test_a_decoder_s_weights_do_not_touch_a_map_of_the_encoder(trained) -> None:
    network, _, x = trained
    network.network.encoder[0].append(gate := EdgeDetector())
    try:
        explainer = Explainer(network, build_task(tiny_plan(2)), network, ["network.bottleneck"])
        stages, checks = check_maps(explainer, x)
    finally:
        del network.network.encoder[0][-1]
    assert gate.weight == 1
    check = next(check for name, check in checks.items() if name.layer == "network.encoder.0.2")
    assert stages[check.own_step] == "network.encoder.0"
    assert all(step.spearman == pytest.approx(1) for step in check.steps[: check.own_step])
    assert check.steps[check.own_step].spearman < 0.999  # the features that it finds edges in have changed


def test_the_cascade_goes_from_the_output_to_the_input_and_leaves_no_weight_out(trained) -> None:
    network, _, x = trained
    steps = cascade(network, x)
    assert [stage.removeprefix("network.") for stage, _ in steps] == [
        "decoder.heads.0", "decoder.stages.1", "decoder.stages.0", "encoder.2", "encoder.1", "encoder.0", "first",
    ]  # fmt: skip
    owners = [owner for _, of_stage in steps for owner in of_stage]
    assert len(owners) == len(set(owners))
    held = {f"{owner}.{name}" for owner in owners for name, _ in network.get_submodule(owner).named_parameters()}
    assert held >= {name for name, _ in network.named_parameters()}


def test_new_values_are_random_where_the_layer_says_how_and_where_not() -> None:
    torch.manual_seed(0)
    layer, bare = nn.Linear(20, 30), nn.Module()
    bare.weight = nn.Parameter(torch.full((1000,), 3.0))
    bare.child = nn.Linear(2, 2)
    before = layer.weight.clone(), bare.child.weight.clone()
    randomise(layer)
    randomise(bare)
    assert abs(rank_correlation(before[0].detach().numpy(), layer.weight.detach().numpy())) < 0.2
    assert float(bare.weight.detach().square().mean().sqrt()) == pytest.approx(3, rel=0.1)
    assert abs(float(bare.weight.detach().mean())) < 0.3
    assert torch.equal(bare.child.weight, before[1])


def test_an_empty_map_is_not_said_to_pass(trained) -> None:
    _, explainer, x = trained
    regions = explainer.regions
    explainer.regions = lambda x: 0 * regions(x)
    try:
        _, checks = check_maps(explainer, x)
    finally:
        del explainer.regions
    assert {check.verdict for name, check in checks.items() if name.kind == "seg_grad_cam"} == {"empty"}


def test_similarities_are_those_of_their_papers() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 12, 13))
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(abs(a).ravel(), abs(b).ravel()).statistic)
    assert rank_correlation(a, np.exp(abs(a))) == pytest.approx(1)
    assert rank_correlation(a, np.ones_like(a)) == 0
    assert constant(np.full(5, 0.3, np.float32) + np.float32(1e-9))
    assert not constant(np.array([0, 1e-20]))
    assert structural_similarity(a, 3 * a) == pytest.approx(1)
    # Two flat halves and their reverse: far from the border means 0 and 1, no variance: eq. 13 is K1^2 / (1 + K1^2).
    halves = np.zeros((60, 4))
    halves[30:] = 1
    near_border = structural_similarity(halves, 1 - halves)
    assert near_border < 0.05
    assert structural_similarity(a, b) < 0.5 < structural_similarity(a, a + 0.05 * b)


def test_edges_are_where_the_image_steps() -> None:
    image = np.zeros((2, 20, 8))
    image[:, 10:] = 1
    found = edges(image)
    assert found.shape == (20, 8)
    assert set(found.argmax(0)) <= {9, 10}
    assert found[0].max() < 1e-4
