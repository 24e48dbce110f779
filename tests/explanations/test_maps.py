"""Maps are what their papers say, and taking them leaves the network and its answer as they were."""

import pytest
import torch
from monai.visualize import GradCAM
from tests.toys import SEGMENTING, tiny_plan
from torch import nn

from foveate.attention import ATTENTION
from foveate.attention.dot_product import to_tokens
from foveate.config import NetworkConfig
from foveate.errors import InputError
from foveate.explanations.attention import watching
from foveate.explanations.maps import Explainer, MapName
from foveate.layers import interpolate
from foveate.networks import build_network
from foveate.networks.hybrid import Transformer
from foveate.tasks import build_task

SIZE = {2: (16, 24), 3: (8, 12, 8)}
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def made(dims: int = 2, name: str = "unet", layers: tuple[str, ...] = (), **slots: str):
    """A network with random weights, its explainer, and an image."""
    torch.manual_seed(1)
    plan = tiny_plan(dims)
    task = build_task(plan)
    network = build_network(NetworkConfig(name=name, attention=slots), plan, task.channels).eval()
    return network, Explainer(network, task, network, layers), torch.randn(2, 1, *SIZE[dims])


@in_2d_and_3d
@pytest.mark.parametrize("name", SEGMENTING)
def test_taking_maps_changes_no_answer_and_leaves_nothing_behind(dims: int, name: str) -> None:
    network, explainer, x = made(dims, name, skip="gate", bottleneck="squeeze_excite", decoder="squeeze_excite")
    state = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        before = network(x)
    during = []
    explainer.answer = lambda x: during.append(network(x)) or during[-1]
    maps = explainer(x)
    # With the hooks in place; kernels of dot-product attention round otherwise where a gradient is wanted.
    torch.testing.assert_close(during[0], before)
    with torch.no_grad():
        assert torch.equal(network(x), before)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    for values in maps.values():
        assert values.shape == (2, 1, *SIZE[dims])
        assert (values >= 0).all()
        assert not values.requires_grad


@in_2d_and_3d
def test_attention_is_that_of_every_block(dims: int) -> None:
    network, explainer, x = made(dims, skip="gate", bottleneck="squeeze_excite")
    seen = {}
    for name in ("decoder.stages.0.skip_attention", "decoder.stages.1.skip_attention"):
        gate = network.get_submodule(name)
        forward = gate.forward
        gate.forward = lambda x, g, gate=gate, name=name, forward=forward: (
            seen.setdefault(name, gate.attention(x, g).detach()),
            forward(x, g),
        )[1]
    maps = explainer(x)
    assert {m.layer for m in maps if m.kind == "attention"} == set(seen)
    finest = "decoder.stages.1.skip_attention"
    assert torch.equal(maps[MapName("attention", finest)], seen[finest])
    # Weights of channels are no map; they are added up over images.
    total, count = explainer.channel_weights["bottleneck"]
    weights = network.bottleneck.attention(_before_bottleneck(network, x))
    torch.testing.assert_close(total, weights.flatten(1).sum(0).detach())
    assert count == 2


@in_2d_and_3d
@pytest.mark.parametrize("block", [name for name, block in ATTENTION.items() if hasattr(block, "attention")])
def test_every_block_is_looked_at_as_a_whole(dims: int, block: str) -> None:
    """One map or one list of channel weights in each place of the slot; what a block is made of has none of its own."""
    _, explainer, x = made(dims, skip=block)
    maps = explainer(x)
    seen = {name.layer for name in maps if name.kind == "attention"} | set(explainer.channel_weights)
    assert seen == {"decoder.stages.0.skip_attention", "decoder.stages.1.skip_attention"}


def _before_bottleneck(network, x):
    for stage in network.encoder:
        x = stage(x)
    return x


def test_a_block_inside_a_block_is_seen_as_its_own_forward_sees_it() -> None:
    class Inner(nn.Module):
        def attention(self, x):
            return x[:, :1].abs()

        def forward(self, x):
            return x * self.attention(x)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def attention(self, x):
            return self.inner(x + 5)[:, :1].abs()

        def forward(self, x):
            return self.inner(x)

    network, explainer, x = made()
    network.bottleneck = Outer()
    explainer = Explainer(network, explainer.task, network)
    maps = explainer(x)
    features = _before_bottleneck(network, x)
    assert {m.layer for m in maps if m.kind == "attention"} == {"bottleneck", "bottleneck.inner"}
    expected = nn.functional.interpolate(features[:, :1].abs(), x.shape[2:], mode="bilinear")
    torch.testing.assert_close(maps[MapName("attention", "bottleneck.inner")], expected)


@in_2d_and_3d
def test_grad_cam_of_a_linear_head_is_the_logit_without_its_bias(dims: int) -> None:
    last = "decoder.stages.1"
    network, explainer, x = made(dims, layers=(last,))
    with torch.no_grad():
        head = network.decoder.heads[0]
        head.bias -= network(x).movedim(1, 0).flatten(1).mean(1)  # so that every class is predicted somewhere
        logits = network(x)
        maps = explainer(x)
        predicted = logits.argmax(1)
        for channel, of in ((1, "front"), (2, "back")):
            evidence = (logits[:, channel] - head.bias[channel]).relu()[:, None]
            torch.testing.assert_close(maps[MapName("grad_cam", last, channel, of)], evidence)
            # The same, times the share of the image that the class is predicted in.
            share = (predicted == channel).flatten(1).float().mean(1).reshape(2, 1, *[1] * dims)
            assert (share > 0).all()
            torch.testing.assert_close(maps[MapName("seg_grad_cam", last, channel, of)], evidence * share)


@in_2d_and_3d
def test_grad_cam_is_that_of_monai(dims: int) -> None:
    layers = ("bottleneck", "decoder.stages.0")
    network, explainer, x = made(dims, layers=layers, skip="gate")
    maps = explainer(x)
    for layer in layers:
        for channel, of in ((1, "front"), (2, "back")):
            peer = interpolate(GradCAM(network, layer).compute_map(x, class_idx=channel), x.shape[2:])
            torch.testing.assert_close(maps[MapName("grad_cam", layer, channel, of)], peer)
    assert any(values.any() for name, values in maps.items() if name.kind == "grad_cam")


def test_a_region_that_is_given_takes_the_place_of_the_predicted_one() -> None:
    _, explainer, x = made()
    everywhere = torch.ones_like(explainer.regions(x))
    maps = explainer(x, everywhere)
    for name, values in maps.items():
        if name.kind == "seg_grad_cam":
            assert torch.equal(values, maps[MapName("grad_cam", name.layer, name.channel, name.of)])
    assert not any(v.any() for n, v in explainer(x, 0 * everywhere).items() if n.kind == "seg_grad_cam")


def test_layers_by_default_and_by_name() -> None:
    network, explainer, x = made()
    assert list(explainer.layers) == ["bottleneck", "decoder.stages.0"]
    with pytest.raises(InputError, match=r"found botleneck; .* Did you mean 'bottleneck'"):
        Explainer(network, explainer.task, network, ["botleneck"])
    with pytest.raises(InputError, match="output of decoder: found list"):
        Explainer(network.train(), explainer.task, network, ["decoder"])(x)


@in_2d_and_3d
@pytest.mark.parametrize(
    ("name", "slots", "layer", "outer"),
    [
        ("window_unet", {}, "encoder.1.0.blocks", "encoder.1.0"),
        ("window_unet", {}, "encoder.1.0.blocks.1.mlp.2", "encoder.1.0"),
        ("window_unet", {}, "encoder.1.0.norm", "encoder.1.0"),
        ("unet", {"bottleneck": "window"}, "bottleneck.windows.0", "bottleneck"),
        ("unet", {"bottleneck": "axial"}, "bottleneck.lines.1", "bottleneck"),
        ("unet", {"bottleneck": "neighbourhood"}, "bottleneck.project", "bottleneck"),
    ],
)
def test_a_layer_whose_channels_come_last_is_refused(dims: int, name: str, slots: dict, layer: str, outer: str) -> None:
    """Its output has the axes of a feature map, and rows of the image in the place of channels."""
    network, explainer, x = made(dims, name, **slots)
    with pytest.raises(InputError, match=rf"output of {layer}: .* Name one around it: {outer}\.$"):
        Explainer(network, explainer.task, network, [layer])
    maps = Explainer(network, explainer.task, network, [outer])(x)
    assert any(found.layer == outer and found.kind == "grad_cam" for found in maps)


def test_maps_of_a_label_tree_are_called_by_their_channel() -> None:
    """Parents come first among the channels, and need no value of their own."""
    plan = tiny_plan(2, classes={"anterior": 1, "posterior": 2}, tree={"whole": ["anterior", "posterior"]})
    task = build_task(plan)
    network = build_network(NetworkConfig(), plan, task.channels).eval()
    found = Explainer(network, task, network)(torch.randn(1, 1, *plan.patch))
    called = {name.channel: name.of for name in found if name.kind == "grad_cam"}
    assert called == {1: "whole", 2: "anterior", 3: "posterior"}


@in_2d_and_3d
@pytest.mark.parametrize(("name", "blocks"), [("hybrid", 1), ("window_unet", 2)])
def test_networks_of_attention_have_maps_of_it(dims: int, name: str, blocks: int) -> None:
    network, explainer, x = made(dims, name)
    assert len(explainer.blocks) == blocks
    with watching(explainer.blocks) as found:
        network(x)
    for weights in found.values():
        torch.testing.assert_close(weights.flatten(1).sum(1), torch.ones(2))
        assert weights.min() >= 0
        assert weights.flatten(1).std(1).min() > 0


def test_the_map_of_the_transformer_is_the_mean_of_its_softmaxes() -> None:
    torch.manual_seed(0)
    transformer, x = Transformer(32, 2).eval(), torch.randn(1, 32, 3, 4)
    tokens, expected = to_tokens(x + transformer.positions(x)), torch.zeros(12)
    for block in transformer.blocks:
        q, k, _ = block.embed(tokens)
        expected += (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)[0].mean((0, 1)) / len(transformer.blocks)
        tokens = block(tokens)
    torch.testing.assert_close(transformer.attention(x)[0, 0].flatten(), expected)
