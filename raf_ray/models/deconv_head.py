"""A backbone and the heatmap head that it ends in: transposed convolutions, then one 1x1 convolution.

Source: Xiao et al. 2018, "Simple Baselines for Human Pose Estimation and Tracking"; ViTPose
(Xu et al. 2022, its classic decoder) puts two of the same layers on a stride-16 backbone.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from raf_ray.models.finer_layer import last_layer
from raf_ray.resolution import HEATMAP_STRIDE


class DeconvHead(nn.Module):
    """Backbone features to one heatmap a joint; each deconvolution doubles height and width.

    The names `deconv_layers.N` and `final_layer` are those of the official ViTPose head, so its checkpoints
    fit as they are. The standard deviation of the weights, 0.001, is that of both papers' official code. With a
    `heatmap_stride` below 4 `final_layer` is a `FinerLayer`.
    """

    def __init__(
        self,
        in_channels: int,
        num_joints: int,
        channels: int = 256,
        layers: int = 2,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        heatmap_stride: int = HEATMAP_STRIDE,
    ) -> None:
        super().__init__()
        if num_joints < 1:
            raise ValueError(f"num_joints is {num_joints}; a model needs at least one joint to predict")
        steps: list[nn.Module] = []
        for layer in range(layers):
            wide = in_channels if layer == 0 else channels
            # A 4x4 kernel at stride 2 with padding 1 covers every output pixel evenly: no checkerboard.
            deconv = nn.ConvTranspose2d(wide, channels, kernel_size=4, stride=2, padding=1, bias=False)
            nn.init.normal_(deconv.weight, std=0.001)
            steps += [deconv, norm(channels), nn.ReLU(inplace=True)]
        self.deconv_layers = nn.Sequential(*steps)
        self.final_layer = last_layer(channels if layers else in_channels, num_joints, heatmap_stride)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to heatmaps (B, K, h * 2^layers, w * 2^layers), or finer ones; unbounded values."""
        heatmaps: Tensor = self.final_layer(self.deconv_layers(features))
        return heatmaps


class BackboneAndHead(nn.Module):
    """Images of any size that `size_divisor` divides, to heatmaps of a `heatmap_stride`-th of that size."""

    head_name = "keypoint_head"
    size_divisor: int
    heatmap_stride: int
    backbone: nn.Module
    keypoint_head: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised, to unbounded heatmaps (B, K, H / heatmap_stride, W / heatmap_stride).

        Raises:
            ValueError: `size_divisor` does not divide H and W.
        """
        heatmaps: Tensor = self.keypoint_head(self.features(images))
        return heatmaps

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H / size_divisor, W / size_divisor) that the head sees."""
        check_image_size(images, self.size_divisor)
        found: Tensor = self.backbone(images)
        return found


def check_image_size(images: Tensor, divisor: int) -> None:
    """Refuse images (B, 3, H, W) whose heatmaps would not be of an exact size.

    Raises:
        ValueError: `images` is not (B, 3, H, W), or `divisor` does not divide both H and W.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (B, 3, H, W), but they are {tuple(images.shape)}")
    height, width = images.shape[-2:]
    if height < divisor or width < divisor or height % divisor or width % divisor:
        raise ValueError(
            f"an image of {height}x{width} (height x width) does not fit this model: both sides must be"
            f" multiples of {divisor}"
        )
