"""The machine is what the equations define: enumeration, adjoint, exact distributions, and what is taken over."""

import itertools

import pytest
import torch
from torch import nn

from foveate.cohort.plan import ChannelPlan
from foveate.config import NetworkConfig
from foveate.errors import InputError
from foveate.layers import conv
from foveate.networks import build_network
from foveate.networks.dbn import RBM, DeepBeliefNetwork, adjoint, first_convolutions, pass_through
from toys import tiny_plan

in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])
units = pytest.mark.parametrize("binary", [True, False], ids=["binary", "gaussian"])


def machine(size, hidden=2, stride=1, binary=True, scale=0.7, seed=0):
    """A machine of float64 with random weights over one channel."""
    torch.manual_seed(seed)
    rbm = RBM(conv(len(size), 1, hidden, stride=stride, bias=False).double(), binary).double()
    with torch.no_grad():
        for parameter in (rbm.convolution.weight, rbm.visible, rbm.hidden):
            parameter.copy_(scale * torch.randn(parameter.shape))
    return rbm


def states(shape):
    """Every state of so many binary units, ``[2^N, *shape]``."""
    count = int(torch.tensor(shape).prod())
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=count)), dtype=torch.float64).view(-1, *shape)


def matrix(rbm, size):
    """W as a matrix ``[hidden units, visible units]``, voxel by voxel from the definition of the convolution."""
    weight, stride = rbm.convolution.weight.detach(), rbm.convolution.stride
    out = [(n - 1) // s + 1 for n, s in zip(size, stride, strict=True)]
    rows = torch.zeros(len(weight), *out, *size, dtype=weight.dtype)
    for k, place in itertools.product(range(len(weight)), itertools.product(*map(range, out))):
        for offset in itertools.product(range(3), repeat=len(size)):
            voxel = [p * s + o - 1 for p, s, o in zip(place, stride, offset, strict=True)]
            if all(0 <= x < n for x, n in zip(voxel, size, strict=True)):
                rows[(k, *place, *voxel)] = weight[(k, 0, *offset)]
    return rows.view(len(weight) * out_size(out), -1)


def out_size(out):
    return int(torch.tensor(out).prod())


def energies(rbm, v, size):
    """E of every ``v [N, visible units]`` with every state of the hidden units: ``[N, 2^hidden units]``."""
    w = matrix(rbm, size)
    h = states((len(w),))
    b = rbm.hidden.detach().repeat_interleave(len(w) // len(rbm.hidden))
    c = rbm.visible.detach()
    own = -(c * v).sum(1) if rbm.binary else ((v - c) ** 2).sum(1) / 2
    return own[:, None] - (v @ w.T + b) @ h.T


def log_likelihood(rbm, data, size):
    """Mean exact log-likelihood of binary data, every state of visible and hidden units counted."""
    all_v = states((out_size(size),))
    return float(
        torch.logsumexp(-energies(rbm, data.flatten(1), size), 1).mean()
        - torch.logsumexp(-energies(rbm, all_v, size).flatten(), 0)
    )


@pytest.mark.parametrize(("size", "stride"), [((5, 7), 1), ((6, 9), 2), ((4, 5, 7), 2), ((5, 4, 3), (1, 2, 2))])
def test_convolution_and_its_transpose_are_adjoint(size, stride):
    torch.manual_seed(0)
    layer = conv(len(size), 3, 4, stride=stride, bias=False).double()
    v = torch.randn(2, 3, *size, dtype=torch.float64)
    h = torch.randn_like(layer(v))
    back = adjoint(layer, h, size)
    assert back.shape == v.shape
    torch.testing.assert_close((layer(v) * h).sum(), (v * back).sum())


@units
@pytest.mark.parametrize(("size", "stride"), [((2, 2), 1), ((3, 2), 2), ((2, 2, 3), 2)])
def test_free_energy_sums_over_every_state_of_the_hidden_units(binary, size, stride):
    rbm = machine(size, hidden=1 if size == (2, 2) else 2, stride=stride, binary=binary)
    v = torch.randn(5, 1, *size, dtype=torch.float64)
    expected = -torch.logsumexp(-energies(rbm, v.flatten(1), size), 1)
    torch.testing.assert_close(rbm.free_energy(v), expected)


def exact_gradient(rbm, data, size):
    """E_data dF - E_model dF by enumeration of visible states, with the code's own F; flat."""
    parameters = [rbm.convolution.weight, rbm.visible, rbm.hidden]
    v = states((1, *size))
    p = torch.softmax(-rbm.free_energy(v), 0).detach()
    loss = rbm.free_energy(data).mean() - (p * rbm.free_energy(v)).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def some_data(size, count=6):
    return (torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64) < 0.6).double()


SIZE = (2, 2)  # 4 visible and 8 hidden units


def test_the_gradient_is_the_finite_difference_of_the_exact_log_likelihood():
    rbm, data = machine(SIZE), some_data(SIZE)
    found = exact_gradient(rbm, data, SIZE)
    differences, step = [], 1e-5
    with torch.no_grad():
        for parameter in (rbm.convolution.weight, rbm.visible, rbm.hidden):
            flat = parameter.view(-1)
            for i in range(len(flat)):
                value = float(flat[i])
                flat[i] = value + step
                above = log_likelihood(rbm, data, SIZE)
                flat[i] = value - step
                below = log_likelihood(rbm, data, SIZE)
                flat[i] = value
                differences.append(-(above - below) / (2 * step))
    torch.testing.assert_close(found, torch.tensor(differences, dtype=torch.float64), rtol=1e-5, atol=1e-8)


def test_the_gradient_of_persistent_chains_points_where_the_exact_one_does():
    rbm, data = machine(SIZE), some_data(SIZE)
    expected = exact_gradient(rbm, data, SIZE)
    random = torch.Generator().manual_seed(0)
    chains = torch.zeros(500, 1, *SIZE, dtype=torch.float64)
    total = torch.zeros_like(expected)
    for _ in range(20):  # as training does it: one step, and on from there
        chains = rbm.gibbs(chains, 1, random)
        loss = rbm.free_energy(data).mean() - rbm.free_energy(chains).mean()
        parameters = [rbm.convolution.weight, rbm.visible, rbm.hidden]
        total += torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    assert float(torch.cosine_similarity(total, expected, dim=0)) > 0.95


def test_gibbs_sampling_leaves_the_exact_distribution_of_binary_units():
    rbm, count = machine(SIZE), 40_000
    v = states((1, *SIZE))
    p = torch.softmax(-rbm.free_energy(v).detach(), 0)
    random = torch.Generator().manual_seed(0)
    start = v[torch.multinomial(p, count, replacement=True, generator=random)]
    after = rbm.gibbs(start, 3, random)
    places = after.flatten(1) @ torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    seen = torch.bincount(places.long(), minlength=16)
    chi = float(((seen - count * p) ** 2 / (count * p)).sum())
    assert chi < 45  # 15 degrees of freedom: exceeded with probability 1e-4, and the seed is fixed
    uniform = torch.full_like(p, 1 / 16)
    assert float(((seen - count * uniform) ** 2 / (count * uniform)).sum()) > 1000  # the test can fail


def test_gibbs_sampling_leaves_the_exact_distribution_of_gaussian_units():
    """p(v) is a mixture of Gaussians around c + W^T h with weights exp(<b, h> + <c, W^T h> + |W^T h|^2 / 2)."""
    rbm, count = machine((2, 2), hidden=1, binary=False), 100_000
    w = matrix(rbm, (2, 2))
    h, c = states((len(w),)), rbm.visible.detach()
    shift = h @ w
    p = torch.softmax((h * rbm.hidden.detach()).sum(1) + (c * shift).sum(1) + (shift**2).sum(1) / 2, 0)
    mean = (p[:, None] * (c + shift)).sum(0)
    covariance = torch.eye(4, dtype=torch.float64) + (p[:, None] * (c + shift - mean)).T @ (c + shift - mean)
    random = torch.Generator().manual_seed(0)
    start = (c + shift)[torch.multinomial(p, count, replacement=True, generator=random)]
    start = start + torch.randn(start.shape, generator=random, dtype=torch.float64)
    v = rbm.gibbs(start.view(-1, 1, 2, 2), 3, random).flatten(1)
    assert ((v.mean(0) - mean) / (covariance.diag() / count).sqrt()).abs().max() < 5
    assert (torch.cov(v.T) - covariance).abs().max() < 5 * 2 * float(covariance.max()) / count**0.5
    assert (covariance - torch.eye(4)).abs().max() > 0.1  # W shows in it


# --- the stack over an encoder


def network(dims, name="unet", **changes):
    torch.manual_seed(0)
    return build_network(NetworkConfig(name=name), tiny_plan(dims, **changes), 3)


@in_2d_and_3d
@pytest.mark.parametrize("name", ["unet", "window_unet"])
def test_the_kernels_of_the_stack_are_those_of_the_encoder_and_shapes_match_its_stages(dims, name):
    net = network(dims, name)
    stack = DeepBeliefNetwork(net)
    x = torch.randn(2, 1, *(17, 14, 11)[:dims])
    with torch.no_grad():
        probabilities, features = stack.features(x), net.encode(x)
    for layer, found, feature in zip(stack.layers, probabilities, features, strict=True):
        assert found.shape == feature.shape
        assert 0 < float(found.min()) < float(found.max()) < 1
        assert any(layer.convolution.weight is parameter for parameter in net.parameters())
    assert [layer.binary for layer in stack.layers] == [False, True, True]
    assert len(stack.features(x, 2)) == 2
    assert set(stack.state_dict()) <= {f"layers.{i}.{name}" for i in range(3) for name in ("visible", "hidden")}


@in_2d_and_3d
def test_a_first_stage_hands_on_what_its_units_see(dims):
    """Each feature rises strictly with the probability of its unit: where one is larger, so is the other."""
    net = network(dims, widths=(4, 6, 8))
    pass_through(net)
    with torch.no_grad():
        net.encoder[0][0].body[0].weight.normal_()
    x = torch.randn(1, 1, *(9, 8, 7)[:dims])
    unit = DeepBeliefNetwork(net).layers[0].inputs(x)[0].flatten(1)
    feature = net.encode(x)[0][0].flatten(1)
    assert (feature.gather(1, unit.argsort(1)).diff(dim=1) >= -1e-5).all()
    fresh = network(dims, widths=(4, 6, 8)).encode(x)[0][0].flatten(1)
    assert (fresh.gather(1, unit.argsort(1)).diff(dim=1) < -0.1).any()


@pytest.mark.parametrize("name", ["unet", "window_unet"])
def test_what_is_taken_over_is_named(name):
    net = network(2, name)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    names = tuple(pass_through(net))
    after = net.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert {f"{key}.weight" for key in first_convolutions(net)} <= changed
    assert all(key.startswith(names) for key in changed)
    assert not any(key.startswith("decoder") for key in after if key.startswith(names))


def test_an_encoder_whose_convolutions_make_no_stack_is_refused():
    with pytest.raises(InputError, match=r"network.name: found Sequential.*masked_autoencoder"):
        first_convolutions(nn.Sequential(nn.Conv2d(1, 2, 3)))
    plan = tiny_plan(2, channels=tuple(ChannelPlan(name=n, normalisation="zscore") for n in "ab"))
    with pytest.raises(InputError, match="make a stack"):  # a stem for each modality
        first_convolutions(build_network(NetworkConfig(name="fusion_unet"), plan, 2))
    net = network(2)
    net.encoder[1][0].body[0] = nn.Conv2d(5, 6, 3)
    with pytest.raises(InputError, match="make a stack"):
        first_convolutions(net)
