"""U-Net with dual attention at the bottleneck: among positions, and among channels, summed.

Source: Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, sec. 3.1 and 3.4. Departures: at the
bottleneck of a U-Net, which has skip connections, in place of a dilated ResNet's last stage; one convolution of width 1
behind each attention, no convolution of width 3 before and behind.
"""

from __future__ import annotations

from torch import Tensor, nn

from foveate.attention.dual import Channel, Position
from foveate.cohort.plan import Plan
from foveate.config import NetworkConfig
from foveate.layers import conv
from foveate.networks.unet import UNet, check_stage


class DualAttentionUNet(UNet):
    """A U-Net whose coarsest features attend to each other by position and by channel, before the slot's own block.

    Raises InputError where the coarsest features of a patch are too many for full attention.
    """

    def __init__(self, plan: Plan, channels: int, config: NetworkConfig) -> None:
        super().__init__(plan, channels, config)
        check_stage("network.name", "dual_attention", plan, -1, Position.max_tokens)
        self.bottleneck = nn.Sequential(DualAttention(plan.widths[-1], plan.dims), self.bottleneck)


class DualAttention(nn.Module):
    """conv(position(x)) + conv(channel(x)); x ``[B, C, *S]``."""

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.position = nn.Sequential(
            Position(channels, spatial_dims), conv(spatial_dims, channels, channels, kernel=1)
        )
        self.channel = nn.Sequential(Channel(channels, spatial_dims), conv(spatial_dims, channels, channels, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.position(x) + self.channel(x)
