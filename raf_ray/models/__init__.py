"""Image of any size -> heatmaps of a quarter of it. One file a family: config, builder, forward."""

from __future__ import annotations

from torch import nn


def build_model(name: str, num_joints: int, depth: int = 18) -> nn.Module:
    """A built-in model: images (B, 3, H, W), normalised, -> heatmaps (B, `num_joints`, H/4, W/4).

    Its `size_divisor` says what must divide H and W. `depth` is the ResNet's of `simple_baseline`.
    """
    if name == "demo":
        from raf_ray.models.demo import build_demo

        return build_demo(num_joints)
    if name == "simple_baseline":
        from raf_ray.models.simple_baseline import build_simple_baseline

        return build_simple_baseline(num_joints, depth)  # type: ignore[arg-type]
    if name.startswith("vitpose_"):
        from raf_ray.models.vitpose import build_vitpose

        return build_vitpose(name.removeprefix("vitpose_"), num_joints)  # type: ignore[arg-type]
    raise ValueError(f"no built-in model is called '{name}'")
