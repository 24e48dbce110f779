"""CCT: labels teach encoder and main decoder, unlabelled images the encoder and the auxiliary decoders."""

import pytest
import torch
from test_methods import RAMPED, a_batch, build, decided, inputs_of

from foveate.methods.cross_consistency import PERTURBATIONS

NAME = "cross_consistency"


def parts(method):
    network = method.network
    return {"encoder": network.encoder, "decoder": network.decoder, "auxiliary": method.crossed.auxiliary}


def reached(method, losses):
    """The parts that the gradient of ``losses`` reaches."""
    method.zero_grad(set_to_none=True)
    sum(losses).backward()
    return {
        name
        for name, part in parts(method).items()
        if any(p.grad is not None and p.grad.any() for p in part.parameters())
    }


@pytest.mark.parametrize(
    ("unlabelled", "expected"), [(True, {"encoder", "auxiliary"}), (False, {"encoder", "decoder"})]
)
def test_which_loss_teaches_which_part(unlabelled, expected):
    method = decided(build(NAME))
    ((_, losses),) = method.turns(a_batch(method), RAMPED)
    assert len([key for key in losses if key.startswith("unlabelled")]) == len(PERTURBATIONS)
    chosen = [value for key, value in losses.items() if key.startswith("unlabelled") == unlabelled]
    assert reached(method, chosen) == expected


def test_the_loss_is_the_squared_difference_of_each_auxiliary_answer_to_the_main_one():
    method = decided(build(NAME, unlabelled_weight=0.6))
    batch = a_batch(method, labelled=3)
    with torch.no_grad():
        for parameter in method.crossed.auxiliary.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    ((_, losses),) = method.turns(batch, RAMPED)
    task, network = method.task, method.network
    expected = task.loss(network(batch.images), task.encode(batch.labels))
    generator = torch.Generator().manual_seed(batch.seed)
    everything = torch.cat([batch.images, batch.weak])
    features = [feature[3:] for feature in network.encode(everything)]
    main = task.pseudo_label(network.decoder(features)[0].detach())
    for (name, change), decoder in zip(PERTURBATIONS.items(), method.crossed.auxiliary, strict=True):
        answer = decoder([change(feature, generator) for feature in features])
        expected[f"unlabelled {name} mse"] = 0.6 / 3 * task.squared_error(answer, main)["mse"]
    assert losses.keys() == expected.keys()
    for key, value in losses.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-6)
        assert value > 1e-5


def test_auxiliary_decoders_follow_the_main_one_until_unlabelled_images_enter():
    method = build(NAME, start=0.5)
    optimiser = torch.optim.AdamW(method.players()["network"].parameters(), lr=1e-2)

    def step(progress, unlabelled):
        for _, losses in method.turns(a_batch(method, unlabelled=unlabelled), progress):
            optimiser.zero_grad(set_to_none=True)
            sum(losses.values()).backward()
            optimiser.step()

    def equal():
        main = method.network.decoder.state_dict()
        return [all(torch.equal(main[k], v) for k, v in d.state_dict().items()) for d in method.crossed.auxiliary]

    start = [p.clone() for p in method.network.decoder.parameters()]
    step(0.1, unlabelled=0)
    assert not all(torch.equal(a, b) for a, b in zip(start, method.network.decoder.parameters(), strict=True))
    assert equal() == [True] * 3
    step(0.6, unlabelled=2)
    assert equal() == [False] * 3


def test_every_pass_goes_through_the_player_and_the_model_is_the_network_alone():
    method = build(NAME, start=0.5)
    player, network = inputs_of(method.players()["network"]), inputs_of(method.network)
    list(method.turns(a_batch(method, unlabelled=0), 0.1))
    list(method.turns(a_batch(method), RAMPED))
    assert [len(x) for x in player] == [len(x) for x in network] == [2, 4]
    assert method.average.state_dict().keys() == method.network.state_dict().keys()
