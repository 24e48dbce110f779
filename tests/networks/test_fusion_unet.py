"""A U-Net with a stem for each modality: any of them may be missing, and then nothing of it matters."""

import pytest
import torch

from foveate.cohort.plan import ChannelPlan
from foveate.config import NetworkConfig
from foveate.networks import FusionUNet, UNet, build_network
from foveate.networks.fusion_unet import ModalityStems
from toys import tiny_plan

CHANNELS = 3
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def plan_of(dims, modalities=3):
    channels = tuple(ChannelPlan(name=f"m{i}", normalisation="zscore") for i in range(modalities))
    return tiny_plan(dims, patch=(8,) * dims, channels=channels)


def network_and_images(dims, missing=((0, 1), (1, 2)), **settings):
    torch.manual_seed(0)
    network = build_network(NetworkConfig(name="fusion_unet", **settings), plan_of(dims), CHANNELS)
    images = torch.randn(2, 3, *[8] * dims)
    for place in missing:
        images[place] = torch.nan
    return network, images


@in_2d_and_3d
@pytest.mark.parametrize("part", [{}, {"crf": True}, {"boxes": True}], ids=str)
def test_what_else_is_in_a_missing_channel_changes_no_bit(dims, part):
    """NaN in one voxel is enough: what remains of the channel after padding or mixing is not looked at."""
    network, images = network_and_images(dims, **part)
    before = network(images)[0]
    assert before.isfinite().all()
    for filling in (0.0, 1e4, -torch.inf):
        other = images.clone()
        other[0, 1], other[1, 2] = filling, filling
        other[(0, 1, *[3] * dims)] = other[(1, 2, *[0] * dims)] = torch.nan
        assert torch.equal(network(other)[0], before)


@in_2d_and_3d
def test_gradients_are_finite_and_the_stem_of_a_missing_modality_gets_none(dims):
    network, images = network_and_images(dims, missing=((0, 1), (1, 1)))
    sum(logits.square().sum() for logits in network(images)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    stems = network.encoder[0][0].stems
    learns = [any((p.grad != 0).any() for p in stem.parameters()) for stem in stems]
    assert learns == [True, False, True]


@in_2d_and_3d
def test_drawn_boxes_are_no_modality_but_reach_the_answer(dims):
    network, images = network_and_images(dims, boxes=True)
    assert network.encoder[0][0].fusion.modalities == ("m0", "m1", "m2")
    boxes = network.boxes(images)
    here, elsewhere = network.encode(images, boxes), network.encode(images, boxes + 0.2)
    assert not torch.equal(here[0], elsewhere[0])
    single = build_network(NetworkConfig(name="fusion_unet", boxes=True), plan_of(dims, 1), CHANNELS)
    assert not any(isinstance(part, ModalityStems) for part in single.modules())


@in_2d_and_3d
def test_every_modality_matters_when_it_is_there(dims):
    network, images = network_and_images(dims, missing=())
    before = network(images)[0]
    for channel in range(3):
        without = images.clone()
        without[:, channel] = torch.nan
        assert not torch.allclose(network(without)[0], before, atol=1e-3)


@in_2d_and_3d
def test_permuting_modalities_with_their_stems_changes_nothing(dims):
    network, images = network_and_images(dims)
    before = network(images)[0]
    order = [2, 0, 1]
    stems = network.encoder[0][0].stems
    network.encoder[0][0].stems = torch.nn.ModuleList(stems[i] for i in order)
    torch.testing.assert_close(network(images[:, order])[0], before, atol=1e-5, rtol=1e-4)


def test_maps_lie_in_image_space_one_for_each_modality():
    network, images = network_and_images(3)
    stems = next(module for module in network.modules() if isinstance(module, ModalityStems))
    maps = stems.fusion.attention(*stems.features(images))
    assert maps.shape == (2, 3, 8, 8, 8)
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 8, 8, 8))
    assert (maps[0, 1] == 0).all()
    assert (maps[1, 2] == 0).all()


def test_with_one_modality_it_is_the_unet():
    plan = plan_of(2, modalities=1)
    fusion, plain = (FusionUNet(plan, CHANNELS, NetworkConfig()), UNet(plan, CHANNELS, NetworkConfig()))
    fusion.load_state_dict(plain.state_dict())
    images = torch.randn(1, 1, 8, 8)
    assert torch.equal(fusion(images)[0], plain(images)[0])


def test_features_are_perturbed_and_decoded_as_those_of_every_network():
    network, images = network_and_images(2)
    assert torch.equal(network.decoder(network.encode(images))[0], network(images)[0])
    assert not torch.equal(network(images, lambda feature: 0.5 * feature)[0], network(images)[0])
