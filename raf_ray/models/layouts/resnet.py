"""A ResNet classifier of torchvision or timm (He et al. 2016), which share their names: the backbone."""

from __future__ import annotations

from torch import Tensor

from raf_ray.models.layouts import Entries, Layout, renamed

RULES = {part: f"backbone.{part}" for part in ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")}
"""The classifier `fc` keeps its name."""


def to_own(entries: Entries) -> dict[str, Tensor]:
    return renamed(entries, RULES)


LAYOUT = Layout(
    "a ResNet's of torchvision or timm",
    lambda entries: "conv1.weight" in entries and "layer1.0.conv1.weight" in entries,
    to_own,
)
