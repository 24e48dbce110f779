"""The gate is open or closed by its bias, and weighs each voxel by the two features there."""

import pytest
import torch

from foveate.attention import AttentionGate

CHANNELS, SIZES = 8, {2: (7, 10), 3: (5, 6, 9)}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("bias", "share"), [(30.0, 1.0), (-30.0, 0.0)])
def test_gate_opens_and_closes(dims, bias, share):
    gate = AttentionGate(CHANNELS, dims)
    torch.nn.init.zeros_(gate.psi.weight)
    torch.nn.init.constant_(gate.psi.bias, bias)
    x, g = (torch.randn(2, CHANNELS, *SIZES[dims]) for _ in range(2))
    torch.testing.assert_close(gate(x, g), share * x, atol=1e-6, rtol=1e-6)


def test_gate_weighs_each_voxel_by_both_features_there():
    gate = AttentionGate(CHANNELS, 3)
    x, g = (torch.randn(1, CHANNELS, *SIZES[3]) for _ in range(2))
    before = gate.attention(x, g)
    for changed in (x, g):
        other = changed.clone()
        other[..., 2, 3, 4] += 5
        moved = gate.attention(other, g) if changed is x else gate.attention(x, other)
        assert ((moved - before).abs() > 1e-6).nonzero().tolist() == [[0, 0, 2, 3, 4]]
