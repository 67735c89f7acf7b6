"""The official ViTPose (Xu et al. 2022), a fork of MMPose 0.x: its names are ours."""

from __future__ import annotations

from raf_ray.models.layouts import Layout

LAYOUT = Layout(
    "the official ViTPose's",
    lambda entries: "backbone.pos_embed" in entries and "backbone.patch_embed.proj.weight" in entries,
    dict,
    ours=True,
)
