"""Fusion of modalities: attention over those that are there, whatever the others are filled with."""

import pytest
import torch

from foveate.attention import ModalityFusion

SIZES = {2: (5, 7), 3: (3, 4, 5)}
CHANNELS = 6
in_2d_and_3d = pytest.mark.parametrize("dims", [2, 3])


def fusion_and_features(dims, modalities=3, images=2):
    torch.manual_seed(0)
    fusion = ModalityFusion(CHANNELS, dims)
    torch.nn.init.normal_(fusion.psi.weight)  # scores that differ enough to matter
    return fusion, torch.randn(images, modalities, CHANNELS, *SIZES[dims])


PRESENT = torch.tensor([[True, False, True], [False, True, True]])


@in_2d_and_3d
@pytest.mark.parametrize("filling", [torch.nan, torch.inf, 0.0, 1e30])
def test_what_fills_an_absent_modality_changes_no_bit(dims, filling):
    fusion, features = fusion_and_features(dims)
    filled = features.clone()
    filled[~PRESENT] = filling
    for answer in (fusion, fusion.attention):
        assert torch.equal(answer(filled, PRESENT), answer(features, PRESENT))


@in_2d_and_3d
def test_absent_modalities_leave_every_gradient_finite_and_get_none(dims):
    fusion, features = fusion_and_features(dims)
    features[~PRESENT] = torch.nan
    features.requires_grad_()
    fusion(features, PRESENT).square().sum().backward()
    assert all(parameter.grad.isfinite().all() and (parameter.grad != 0).any() for parameter in fusion.parameters())
    assert (features.grad[~PRESENT] == 0).all()
    assert (features.grad[PRESENT] != 0).any()


@in_2d_and_3d
def test_the_equation_voxel_by_voxel(dims):
    """Softmax over the present alone, written without a mask."""
    fusion, features = fusion_and_features(dims)
    weights, fused = fusion.attention(features, PRESENT), fusion(features, PRESENT)
    assert weights.shape == (2, 3, *SIZES[dims])
    of_each, of_mean, psi = (
        layer.weight.flatten(1) for layer in (fusion.of_each, fusion.of_mean, fusion.psi)
    )  # each [O, I]
    for b, place in [(b, place) for b in range(2) for place in ((0,) * dims, (2,) * dims)]:
        there = PRESENT[b].nonzero()[:, 0]
        f = features[(b, there, slice(None), *place)]  # [N, C]
        scores = (f @ of_each.T + fusion.of_each.bias + f.mean(0) @ of_mean.T).relu() @ psi.T  # [N, 1]
        shares = scores.softmax(0)
        torch.testing.assert_close(weights[(b, there, *place)], shares[:, 0])
        torch.testing.assert_close(fused[(b, slice(None), *place)], (shares * f).sum(0))


@in_2d_and_3d
def test_maps_sum_to_one_over_the_present_and_are_zero_elsewhere(dims):
    fusion, features = fusion_and_features(dims)
    weights = fusion.attention(features, PRESENT)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, *SIZES[dims]))
    assert (weights[~PRESENT] == 0).all()
    assert (weights[PRESENT] > 0).all()
    assert weights[0, 0].std() > 0.01  # a map, not a constant


@in_2d_and_3d
def test_one_modality_alone_passes_unchanged(dims):
    fusion, features = fusion_and_features(dims)
    alone = torch.eye(3, dtype=torch.bool)[:2]
    assert torch.equal(fusion(features, alone), torch.stack([features[0, 0], features[1, 1]]))


@in_2d_and_3d
def test_the_order_of_modalities_means_nothing(dims):
    fusion, features = fusion_and_features(dims)
    order = [2, 0, 1]
    torch.testing.assert_close(fusion(features[:, order], PRESENT[:, order]), fusion(features, PRESENT))
    torch.testing.assert_close(
        fusion.attention(features[:, order], PRESENT[:, order]), fusion.attention(features, PRESENT)[:, order]
    )


@in_2d_and_3d
def test_without_any_modality_the_answer_is_zero(dims):
    fusion, features = fusion_and_features(dims)
    features[0] = torch.nan
    present = torch.tensor([[False] * 3, [True] * 3])
    fused = fusion(features, present)
    assert (fused[0] == 0).all()
    torch.testing.assert_close(fused[1:], fusion(features[1:], present[1:]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept(dtype):
    fusion, features = fusion_and_features(2)
    answer = fusion.to(dtype)(features.to(dtype), PRESENT)
    assert answer.dtype == dtype
    assert answer.isfinite().all()


def test_exports():
    fusion, features = fusion_and_features(3)
    exported = torch.export.export(fusion.eval(), (features, PRESENT)).module()
    torch.testing.assert_close(exported(features, PRESENT), fusion(features, PRESENT))
