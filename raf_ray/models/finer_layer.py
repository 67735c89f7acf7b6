"""The last layer of a head: heatmaps of stride 4, or finer ones by super-resolution (`model.heatmap_stride`).

Source: Wang et al. 2023, "Lightweight Super-Resolution Head for Human Pose Estimation" (SRPose), its SR head; the pixel
shuffle is that of Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
Convolutional Neural Network".
"""

from __future__ import annotations

from torch import Tensor, nn

from raf_ray.resolution import HEATMAP_STRIDE

OF_A_JOINT = 4
"""Channels of a joint before the pixel shuffle (SRPose's at a quarter of the image)."""

KERNEL = 9
"""Side of the convolution of each joint's channels, as SRPose's."""


def last_layer(features: int, num_joints: int, stride: int = HEATMAP_STRIDE, kernel_size: int = 1) -> nn.Module:
    """Features (B, C, H / 4, W / 4) to heatmaps (B, K, H / stride, W / stride).

    At stride 4 one convolution of `kernel_size`, by both Simple Baseline's and ViTPose's official code of standard
    deviation 0.001 without bias; else a `FinerLayer`.
    """
    if stride != HEATMAP_STRIDE:
        return FinerLayer(features, num_joints, HEATMAP_STRIDE // stride)
    layer = nn.Conv2d(features, num_joints, kernel_size, padding=kernel_size // 2)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


class FinerLayer(nn.Module):
    """Features (B, C, h, w) to heatmaps (B, K, scale * h, scale * w), each joint's from channels of its own.

    A 1x1 convolution and ReLU give each joint 4 channels (torch's default initialisation), a 9x9 convolution of these
    gives it scale^2 (standard deviation 0.001, no bias, as in SRPose's code), and the pixel shuffle lays them out.
    """

    def __init__(self, features: int, num_joints: int, scale: int) -> None:
        super().__init__()
        wide = OF_A_JOINT * num_joints
        self.of_joints = nn.Sequential(nn.Conv2d(features, wide, 1), nn.ReLU(inplace=True))
        self.finer = nn.Conv2d(wide, scale**2 * num_joints, KERNEL, padding=KERNEL // 2, groups=num_joints)
        self.shuffle = nn.PixelShuffle(scale)
        nn.init.normal_(self.finer.weight, std=0.001)
        nn.init.zeros_(self.finer.get_parameter("bias"))

    def forward(self, features: Tensor) -> Tensor:
        heatmaps: Tensor = self.shuffle(self.finer(self.of_joints(features)))
        return heatmaps
