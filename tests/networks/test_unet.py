"""Every network answers every plan with logits of the right shape and trains all of itself."""

import pytest
import torch

from foveate.attention import ATTENTION
from foveate.cohort.plan import ChannelPlan
from foveate.config import AttentionSlots, NetworkConfig
from foveate.errors import InputError
from foveate.networks import build_network
from toys import SEGMENTING, tiny_plan

CHANNELS = 3
PLANS = {
    "2D": tiny_plan(2),
    "3D": tiny_plan(3, patch=(8, 8, 12)),
    "thick slices": tiny_plan(3, patch=(8, 16, 5), strides=((1, 1, 1), (2, 2, 1), (1, 2, 1))),
    "stride 3, four stages, two inputs": tiny_plan(
        2,
        patch=(24, 36),
        widths=(4, 4, 6, 8),
        strides=((1, 1), (3, 3), (2, 2), (2, 3)),
        channels=tuple(ChannelPlan(name=n, normalisation="zscore") for n in "ab"),
    ),
    "one stage": tiny_plan(2, patch=(5, 7), widths=(4,), strides=((1, 1),)),
}

every_network = pytest.mark.parametrize("name", SEGMENTING)
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def network_and_images(name, plan, images=2, **slots):
    torch.manual_seed(0)
    config = NetworkConfig(name=name, attention=AttentionSlots(**slots))
    return build_network(config, plan, CHANNELS), torch.randn(images, len(plan.channels), *plan.patch)


@every_network
@every_plan
def test_logits_finest_first_in_training_and_alone_afterwards(name, plan):
    network, images = network_and_images(name, plan)
    outputs = network(images)
    assert isinstance(outputs, list)
    assert len(outputs) == max(len(plan.widths) - 2, 1)
    size = plan.patch
    for logits, following in zip(outputs, [*plan.strides[1:], (1,) * plan.dims], strict=False):
        assert logits.shape == (2, CHANNELS, *size)
        size = tuple(n // s for n, s in zip(size, following, strict=True))
    evaluated = network.eval()(images)
    assert isinstance(evaluated, torch.Tensor)
    torch.testing.assert_close(evaluated, outputs[0])


@every_network
def test_without_deep_supervision_there_is_one_output(name):
    plan = tiny_plan(2, widths=(4, 4, 6, 8), strides=((1, 1), *[(2, 2)] * 3))
    network = build_network(NetworkConfig(name=name, deep_supervision=False), plan, CHANNELS)
    assert len(network(torch.randn(1, 1, 32, 32))) == 1


@every_network
@every_plan
def test_gradient_reaches_every_parameter(name, plan):
    network, images = network_and_images(name, plan, skip="gate", encoder="squeeze_excite")
    sum(logits.square().sum() for logits in network(images)).backward()
    for parameter, value in network.named_parameters():
        assert value.grad is not None, parameter
        assert (value.grad != 0).any(), parameter


@every_network
@every_plan
def test_images_of_a_batch_do_not_see_each_other(name, plan):
    network, images = network_and_images(name, plan, skip="gate", decoder="squeeze_excite")
    together = network(images)[0]
    alone = torch.cat([network(image[None])[0] for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@every_network
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("block", ATTENTION)
def test_every_block_works_in_every_slot_that_can_feed_it(name, dims, block):
    plan = tiny_plan(dims, patch=(8,) * dims)
    single = {} if ATTENTION[block].inputs == 2 else dict.fromkeys(("encoder", "bottleneck", "decoder"), block)
    for slots in ({"skip": block}, single, {**single, "skip": "gate"}):
        network, images = network_and_images(name, plan, **slots)
        assert network(images)[0].isfinite().all(), slots


def test_full_attention_among_too_many_voxels_is_refused_before_training():
    plan = tiny_plan(3, patch=(48, 48, 48))  # 110592, 13824 and 1728 voxels
    assert build_network(NetworkConfig(attention=AttentionSlots(bottleneck="non_local")), plan, CHANNELS)
    for slot in ("skip", "encoder", "decoder"):
        with pytest.raises(InputError) as caught:
            build_network(NetworkConfig(attention=AttentionSlots(**{slot: "position"})), plan, CHANNELS)
        message = str(caught.value)
        assert f"network.attention.{slot}: found position among 110592 voxels; expected at most 8192" in message
        assert "linear, criss_cross, axial or window" in message
    for block in ("linear", "window"):
        assert build_network(NetworkConfig(attention=AttentionSlots(encoder=block)), plan, CHANNELS)


def test_slots_are_judged_by_the_stages_that_are_built():
    plan = tiny_plan(2, patch=(128, 128))  # 16384, 4096 and 1024 voxels
    for slots in ({"skip": "non_local"}, {"decoder": "position"}):
        slots = AttentionSlots(**slots)
        build_network(NetworkConfig(head="dense_upsampling", attention=slots), plan, CHANNELS)
        with pytest.raises(InputError, match="among 16384 voxels"):
            build_network(NetworkConfig(attention=slots), plan, CHANNELS)
    single = tiny_plan(2, widths=(4,), strides=((1, 1),))
    build_network(NetworkConfig(attention=AttentionSlots(skip="gate")), single, CHANNELS)
    for slot in ("skip", "decoder"):
        with pytest.raises(InputError, match=f"network.attention.{slot}: found gates"):
            build_network(NetworkConfig(attention=AttentionSlots(**{slot: "gates"})), single, CHANNELS)


@every_network
@pytest.mark.parametrize("slot", [slot for slot in AttentionSlots.model_fields if slot != "pool"])
def test_each_slot_puts_its_block_into_the_path(name, slot):
    plan = tiny_plan(2, patch=(8, 8))
    network, images = network_and_images(name, plan, **{slot: "squeeze_excite"})
    before = network(images)[0]
    blocks = [m for m in network.modules() if type(m) is ATTENTION["squeeze_excite"]]
    assert blocks
    for block in blocks:
        torch.nn.init.constant_(block.excite.bias, -30.0)
    assert not torch.allclose(before, network(images)[0], atol=1e-3)


@every_network
@pytest.mark.parametrize("slot", ["encoder", "bottleneck", "decoder"])
def test_a_block_for_two_features_is_refused_where_there_is_one(name, slot):
    with pytest.raises(InputError) as caught:
        network_and_images(name, tiny_plan(2), **{slot: "gate"})
    message = str(caught.value)
    assert f"network.attention.{slot}" in message
    assert "gate, which joins 2 features" in message
    assert "slot skip" in message


@pytest.mark.parametrize("pool", ["mean", "nonsense"])
def test_a_pooling_is_refused_where_nothing_is_pooled(pool):
    with pytest.raises(InputError, match=r"network\.attention\.pool"):
        build_network(NetworkConfig(attention={"pool": pool}), tiny_plan(2), 2)


def test_unknown_names_are_refused_with_the_nearest_known_one():
    with pytest.raises(InputError, match="Did you mean 'squeeze_excite'"):
        network_and_images("unet", tiny_plan(2), skip="squeeze_exite")
    with pytest.raises(InputError, match="Did you mean 'unet'"):
        network_and_images("u-net", tiny_plan(2))
