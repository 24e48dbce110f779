"""U-Net whose coarsest features pass through a transformer: a convolutional encoder, tokens, a decoder with skips.

Source: Chen et al., "TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation", 2021, sec. 3.
Departures: four transformer blocks in place of twelve, as wide as the U-Net's coarsest stage, from random weights;
positions come from a depthwise convolution (Chu et al., "Conditional Positional Encodings", 2021), which works at any
size, in place of a vector learnt for each of a fixed number; encoder and decoder are those of the U-Net; 3D too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.attention.dot_product import (
    MAX_TOKENS,
    head_count,
    join_heads,
    received,
    scaled_dot_product,
    split_heads,
    to_image,
    to_tokens,
)
from foveate.cohort.plan import Plan
from foveate.config import NetworkConfig
from foveate.layers import conv, hidden_layer
from foveate.networks.unet import UNet, check_stage

BLOCKS = 4


class HybridUNet(UNet):
    """A U-Net with a transformer at the bottleneck, before the slot's own block.

    Raises InputError where the coarsest features of a patch are too many for full attention.
    """

    def __init__(self, plan: Plan, channels: int, config: NetworkConfig) -> None:
        super().__init__(plan, channels, config)
        check_stage("network.name", "hybrid", plan, -1, MAX_TOKENS)
        self.bottleneck = nn.Sequential(Transformer(plan.widths[-1], plan.dims), self.bottleneck)


class Transformer(nn.Module):
    """Positions, then blocks of full attention, then a normalisation; ``[B, C, *S]`` of any size S."""

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.positions = conv(spatial_dims, channels, channels, groups=channels)
        self.blocks = nn.Sequential(*[TransformerBlock(channels) for _ in range(BLOCKS)])
        self.norm = nn.LayerNorm(channels)

    def attention(self, x: Tensor) -> Tensor:
        """What each voxel receives, mean over queries, heads and blocks: ``[B, 1, *S]``, which sums to 1."""
        tokens, maps = to_tokens(x + self.positions(x)), []
        for block in self.blocks:
            maps.append(block.received(tokens))  # type: ignore[operator]
            tokens = block(tokens)
        return to_image(torch.stack(maps).mean(0)[..., None], x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x + self.positions(x))
        return to_image(self.norm(self.blocks(tokens)), x.shape[2:])


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), on tokens ``[B, N, C]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = head_count(channels)
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.project = nn.Linear(channels, channels)
        self.mlp = hidden_layer(channels)

    def embed(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values, each ``[B, h, N, C / h]``."""
        return [split_heads(part, self.heads) for part in self.qkv(self.norm(x)).chunk(3, dim=-1)]

    def received(self, x: Tensor) -> Tensor:
        """What each token receives, mean over queries and heads: ``[B, N]``, which sums to 1."""
        q, k, _ = self.embed(x)
        return received(q, k).mean(1) / x.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.project(join_heads(scaled_dot_product(*self.embed(x))))
        return x + self.mlp(x)
