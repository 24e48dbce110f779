"""The CRF layer against the sum over all pairs of voxels, and in the networks that end in it."""

import copy
import itertools

import pytest
import torch

from foveate.networks.crf import CRF, Messages

SIZES = {2: (4, 5), 3: (3, 4, 2)}
SPACING = {2: (0.7, 1.9), 3: (3.0, 0.8, 1.1)}
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def a_crf(dims, labels=3, radius=None, iterations=2):
    """With weights, widths and a compatibility that are not the ones to start from, in float64."""
    torch.manual_seed(0)
    crf = CRF(labels, SPACING[dims], radius or SIZES[dims], iterations).double()
    with torch.no_grad():
        crf.weight.copy_(torch.tensor([1.7, 2.3]))
        crf.log_theta.add_(torch.tensor([0.3, -0.2, 0.1]))
        crf.compatibility.add_(torch.randn(labels, labels) / 3)
    return crf


def draw(dims, labels=3, channels=2, batch=2):
    random = torch.Generator().manual_seed(1)
    return [torch.randn(batch, c, *SIZES[dims], generator=random, dtype=torch.float64) for c in (labels, channels)]


def kernel_by_hand(crf, image, spacing):
    """K ``[N, N]`` of one image ``[C, *S]`` from every pair of voxels."""
    places = list(itertools.product(*map(range, image.shape[1:])))
    w_s, w_b = crf.weight * crf.unit
    theta_s, theta_b, theta_i = crf.log_theta.exp()
    kernel = torch.zeros(len(places), len(places), dtype=torch.float64)
    for (i, p), (j, q) in itertools.permutations(enumerate(places), 2):
        distance = sum(((a - b) * s) ** 2 for a, b, s in zip(p, q, spacing, strict=True))
        contrast = (image[(slice(None), *p)] - image[(slice(None), *q)]).square().sum()
        kernel[i, j] = w_s * (-distance / (2 * theta_s**2)).exp()
        kernel[i, j] += w_b * (-distance / (2 * theta_b**2) - contrast / (2 * theta_i**2)).exp()
    return kernel


@in_2d_and_3d
def test_equals_the_sum_over_all_pairs(dims):
    crf, (logits, image) = a_crf(dims), draw(dims)
    with torch.no_grad():
        double = crf(logits, image).flatten(2).softmax(1)
        single = copy.deepcopy(crf).float()(logits.float(), image.float()).flatten(2).softmax(1)
        for b in range(2):
            kernel, unary = kernel_by_hand(crf, image[b], SPACING[dims]), logits[b].flatten(1)
            q = unary.softmax(0)
            for _ in range(crf.iterations):
                q = (unary - crf.compatibility @ (q @ kernel.T)).softmax(0)
            torch.testing.assert_close(double[b], q, atol=1e-7, rtol=0)  # squared distances are kept in float32
            torch.testing.assert_close(single[b].double(), q, atol=1e-5, rtol=0)


@in_2d_and_3d
def test_gradients_equal_finite_differences(dims):
    crf = a_crf(dims, labels=2, radius=(1,) * dims)
    logits, image = draw(dims, labels=2, channels=1, batch=1)
    parameters = dict(crf.named_parameters())

    def answer(logits, image, *values):
        return torch.func.functional_call(crf, dict(zip(parameters, values, strict=True)), (logits, image))

    part = (..., *(slice(2),) * (dims - 1), slice(3))
    inputs = [value.detach().clone().requires_grad_() for value in (logits[part], image[part], *parameters.values())]
    assert torch.autograd.gradcheck(answer, inputs)


@in_2d_and_3d
def test_an_impulse_reaches_every_neighbour_in_the_window_but_not_itself(dims):
    q, line = torch.zeros(1, 1, *[7] * dims), torch.rand(1, 1, 9**dims)
    q[(0, 0, *[3] * dims)] = 1
    crf = CRF(2, (1.0,) * dims)
    near = torch.ones(len(crf.offsets))
    steps = [sum(o * 9**axis for axis, o in enumerate(reversed(offset))) for offset in crf.offsets]
    messages = Messages.apply(crf.line(q), line, near, near, torch.tensor(1.0), steps)
    messages = messages.view([9] * dims)[(slice(7),) * dims]
    window = (slice(1, 6),) * dims
    expected = torch.zeros([7] * dims, dtype=torch.bool)
    expected[window] = True
    expected[(3,) * dims] = False
    assert torch.equal(messages > 0, expected)


@in_2d_and_3d
def test_without_weight_the_answer_is_what_went_in(dims):
    crf, (logits, image) = a_crf(dims), draw(dims)
    torch.nn.init.zeros_(crf.weight)
    torch.testing.assert_close(crf(logits, image).softmax(1), logits.softmax(1))


def test_a_lone_voxel_is_overruled_by_its_like_and_kept_where_it_looks_unlike():
    logits, image = torch.zeros(1, 2, 9, 9), torch.zeros(1, 1, 9, 9)
    logits[:, 0] = 1
    logits[0, :, 4, 4] = torch.tensor([0.0, 0.4])
    crf = CRF(2, (1.0, 1.0))
    torch.nn.init.constant_(crf.weight[:1], 0)
    assert (crf(logits, image).argmax(1) == 0).all()
    image[0, 0, 4, 4] = 5
    assert crf(logits, image).argmax(1).nonzero().tolist() == [[0, 4, 4]]


def test_thick_slices_are_joined_to_the_next_one_only():
    crf = CRF(2, (1.0, 1.0, 5.0))
    assert [max(offset[axis] for offset in crf.offsets) for axis in range(3)] == [2, 2, 1]


def test_under_autocast_it_computes_in_float32():
    (logits, image), crf = draw(2), CRF(3, SPACING[2])
    low = logits.bfloat16(), image.bfloat16()
    expected = crf(*[x.float() for x in low])
    with torch.autocast("cpu", torch.bfloat16):
        answer = crf(*low)
    assert answer.dtype == torch.float32
    assert torch.equal(answer, expected)
