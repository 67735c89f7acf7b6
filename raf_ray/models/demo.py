"""`demo`: a small U-shaped convolutional net with GroupNorm (about 0.3M parameters) that learns on a CPU in minutes.

GroupNorm and not BatchNorm: with mixed sizes, running statistics cost RAF several points at the high tier.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raf_ray.models.finer_layer import last_layer
from raf_ray.resolution import HEATMAP_STRIDE

NAMES = ("demo",)

OPTIONS = ("heatmap_stride",)

STRIDE = 16
"""Of the deepest features; the input is padded to it."""
GROUPS = 8


def conv_norm(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, GroupNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.GroupNorm(GROUPS, outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_norm(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.GroupNorm(GROUPS, channels))

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(features + self.second(self.first(features)))


class DemoNet(nn.Module):
    """images (B, 3, H, W) -> heatmaps (B, K, H / stride, W / stride) for any H and W that 4 divides.

    The input is padded with zeros to the stride of 16; the heatmaps are cut to H / stride x W / stride.
    """

    size_divisor = 4
    head_name = "head"

    def __init__(
        self,
        num_joints: int,
        widths: tuple[int, int, int, int] = (16, 32, 48, 96),
        heatmap_stride: int = HEATMAP_STRIDE,
    ) -> None:
        super().__init__()
        self.heatmap_stride = heatmap_stride
        half, quarter, eighth, sixteenth = widths
        self.down_quarter = nn.Sequential(conv_norm(3, half, stride=2), conv_norm(half, quarter, stride=2))
        self.down_eighth = conv_norm(quarter, eighth, stride=2)
        self.down_sixteenth = nn.Sequential(conv_norm(eighth, sixteenth, stride=2), Residual(sixteenth))
        self.to_eighth = nn.Conv2d(sixteenth, eighth, 1)
        self.merge_eighth = conv_norm(eighth, eighth)
        self.to_quarter = nn.Conv2d(eighth, quarter, 1)
        self.merge_quarter = conv_norm(quarter, quarter)
        self.head = last_layer(quarter, num_joints, heatmap_stride)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        heatmaps: Tensor = self.head(self.features(images))
        return heatmaps[..., : height // self.heatmap_stride, : width // self.heatmap_stride]

    def features(self, images: Tensor) -> Tensor:
        """(B, C, h, w) that the head sees, of the padded images."""
        height, width = images.shape[-2:]
        if height % 4 or width % 4:
            raise ValueError(f"DemoNet needs sides that 4 divides, got {height}x{width}")
        if height % STRIDE or width % STRIDE:  # F.pad copies where there is nothing to pad too
            images = F.pad(images, (0, -width % STRIDE, 0, -height % STRIDE))
        quarter = self.down_quarter(images)
        eighth = self.down_eighth(quarter)
        deep = self.to_eighth(self.down_sixteenth(eighth))
        eighth = self.merge_eighth(eighth + F.interpolate(deep, scale_factor=2.0, mode="nearest"))
        deep = self.to_quarter(eighth)
        merged: Tensor = self.merge_quarter(quarter + F.interpolate(deep, scale_factor=2.0, mode="nearest"))
        return merged


def build(name: str, num_joints: int, depth: int, heatmap_stride: int = HEATMAP_STRIDE) -> DemoNet:
    return DemoNet(num_joints, heatmap_stride=heatmap_stride).to(memory_format=torch.channels_last)
