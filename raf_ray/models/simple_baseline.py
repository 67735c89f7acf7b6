"""Simple Baseline: a ResNet and a deconvolution head. The convolutional model to hold against ViTPose.

Source: Xiao et al. 2018, "Simple Baselines for Human Pose Estimation and Tracking". One change: the paper
puts three deconvolutions on a stride of 32; here the last stage is dilated, so its stride is 16 and two
deconvolutions lead to the same H / 4. A stride of 32 would not divide 64x48 and 192x144; with 16 both
models take the same sizes and end in the same head.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from raf_ray.models.deconv_head import BackboneAndHead, DeconvHead
from raf_ray.resolution import HEATMAP_STRIDE

NAMES = ("simple_baseline",)

OPTIONS = ("heatmap_stride",)

Depth = Literal[18, 50]

BUILDERS = {18: resnet18, 50: resnet50}


def build_simple_baseline(num_joints: int, depth: Depth = 18, heatmap_stride: int = HEATMAP_STRIDE) -> SimpleBaseline:
    """A Simple Baseline on ResNet-18 or ResNet-50, freshly initialised; nothing is downloaded.

    Raises:
        ValueError: the depth is neither, or `num_joints` is less than 1.
    """
    if depth not in BUILDERS:
        allowed = ", ".join(map(str, BUILDERS))
        raise ValueError(f"Simple Baseline has no depth {depth!r}: choose one of {allowed}")
    return SimpleBaseline(num_joints, depth, heatmap_stride)


def build(name: str, num_joints: int, depth: Depth, heatmap_stride: int = HEATMAP_STRIDE) -> SimpleBaseline:
    return build_simple_baseline(num_joints, depth, heatmap_stride)


class SimpleBaseline(BackboneAndHead):
    """Images of any size that 16 divides, to heatmaps of a `heatmap_stride`-th of that size.

    `backbone.*` holds torchvision's ResNet under torchvision's own names, without its classifier.
    """

    size_divisor = 16
    num_layers = 0
    """No layer decay: the paper trains every layer at one learning rate."""

    def __init__(self, num_joints: int, depth: Depth = 18, heatmap_stride: int = HEATMAP_STRIDE) -> None:
        super().__init__()
        self.heatmap_stride = heatmap_stride
        resnet = BUILDERS[depth](weights=None)
        dilate_last_stage(resnet.layer4)
        stages = OrderedDict(child for child in resnet.named_children() if child[0] not in ("avgpool", "fc"))
        self.backbone = nn.Sequential(stages)
        self.keypoint_head = DeconvHead(resnet.fc.in_features, num_joints, heatmap_stride=heatmap_stride)

    def layer_id(self, name: str) -> int:
        """Depth of a parameter for layer decay: 0 for all, that is none (see `ViTPose.layer_id`)."""
        return self.num_layers

    def no_weight_decay(self, name: str, parameter: Tensor) -> bool:
        """Whether weight decay must leave a parameter alone: norms and biases."""
        return parameter.ndim <= 1


def dilate_last_stage(stage: nn.Module) -> None:
    """Take the stride out of a ResNet stage and dilate what comes after it, in place; no weight changes.

    The stride of 2 becomes 1, and every later 3x3 convolution gets dilation 2 (a trous), so each output at
    an even place is exactly what the strided stage computed there, and pre-trained weights keep their
    meaning. By hand, since torchvision's `replace_stride_with_dilation` refuses the BasicBlock of
    ResNet-18; for ResNet-50 the two agree.
    """
    for module in stage.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if module.stride == (2, 2):  # the first block's own convolution and its shortcut
            module.stride = (1, 1)
        elif module.kernel_size == (3, 3):
            module.dilation, module.padding = (2, 2), (2, 2)
