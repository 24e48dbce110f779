"""Blocks run outside torch: ONNX Runtime answers as the block does."""

import onnxruntime
import pytest
import torch
from torch import nn

from foveate.attention import ATTENTION

CHANNELS = 8


class Together(nn.Module):
    """All blocks on the same two features, in one model, because an export costs seconds."""

    def __init__(self, dims):
        super().__init__()
        self.blocks = nn.ModuleDict({name: block(CHANNELS, dims) for name, block in ATTENTION.items()})

    def forward(self, x, other):
        return {name: block(*(x, other)[: block.inputs]) for name, block in self.blocks.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [(7, 10), (5, 6, 9)])
def test_onnx_runtime_answers_as_torch_does(size):
    torch.manual_seed(0)
    blocks = Together(len(size)).eval()
    features = [torch.randn(2, CHANNELS, *size) for _ in range(2)]
    program = torch.onnx.export(blocks, tuple(features), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    inputs = {node.name: x.numpy() for node, x in zip(session.get_inputs(), features, strict=True)}
    expected = blocks(*features)
    for (name, out), answer in zip(expected.items(), session.run(None, inputs), strict=True):
        torch.testing.assert_close(
            torch.from_numpy(answer), out, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
