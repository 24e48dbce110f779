"""A product of strips is the convolution with the outer product of the strips."""

import pytest
import torch
import torch.nn.functional as F

from foveate.attention.box import DepthwiseBox


@pytest.mark.parametrize(("kernel", "dilation"), [(5, 1), (3, 3), (21, 1)])
@pytest.mark.parametrize("size", [(8, 11), (5, 7, 6)])
def test_equals_the_convolution_with_the_whole_box(kernel, dilation, size):
    torch.manual_seed(0)
    box, x = DepthwiseBox(3, len(size), kernel, dilation), torch.randn(2, 3, *size)
    torch.nn.init.normal_(box.weight)
    whole = box.weight[0]
    for strip in box.weight[1:]:
        whole = whole[..., None] * strip.reshape(3, *[1] * (whole.ndim - 1), kernel)
    convolve = {2: F.conv2d, 3: F.conv3d}[len(size)]
    expected = convolve(x, whole[:, None], padding=kernel // 2 * dilation, dilation=dilation, groups=3)
    torch.testing.assert_close(box(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
