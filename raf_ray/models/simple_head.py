"""ViTPose's simple decoder: features enlarged, then one convolution (Xu et al. 2022, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from raf_ray.models.finer_layer import last_layer
from raf_ray.resolution import HEATMAP_STRIDE

Decoder = Literal["classic", "simple"]


def decoder_of(entries: Mapping[str, Tensor]) -> Decoder | None:
    """The `model.decoder` of a ViTPose, by the names of its entries; None where they are of no whole ViTPose."""
    if not {"backbone.patch_embed.proj.weight", "keypoint_head.final_layer.weight"} <= entries.keys():
        return None
    return "classic" if any(name.startswith("keypoint_head.deconv_layers.") for name in entries) else "simple"


class SimpleHead(nn.Module):
    """Backbone features to one heatmap a joint: ReLU, bilinear enlargement, one 3x3 convolution.

    The name `final_layer` is that of the official ViTPose head, and so is the weights' standard deviation, 0.001.
    With a `heatmap_stride` below 4 it is a `FinerLayer`.
    """

    def __init__(self, in_channels: int, num_joints: int, scale: int = 4, heatmap_stride: int = HEATMAP_STRIDE) -> None:
        super().__init__()
        if num_joints < 1:
            raise ValueError(f"num_joints is {num_joints}; a model needs at least one joint to predict")
        self.scale = scale
        self.final_layer = last_layer(in_channels, num_joints, heatmap_stride, kernel_size=3)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) to heatmaps (B, K, scale * h, scale * w), or finer ones; unbounded values."""
        wide = F.interpolate(F.relu(features), scale_factor=float(self.scale), mode="bilinear", align_corners=False)
        heatmaps: Tensor = self.final_layer(wide)
        return heatmaps
