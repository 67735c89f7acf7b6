"""A plain vision transformer's encoder: MAE (He et al. 2022), DeiT, DINO and timm's, which share these names."""

from __future__ import annotations

from torch import Tensor

from raf_ray.models.layouts import Entries, Layout, renamed

RULES = {
    "patch_embed.": "backbone.patch_embed.",
    "pos_embed": "backbone.pos_embed",
    "cls_token": "backbone.cls_token",
    "blocks.": "backbone.blocks.",
    "norm.": "backbone.last_norm.",
}
"""The decoder keeps its names."""


def to_own(entries: Entries) -> dict[str, Tensor]:
    return renamed(entries, RULES)


LAYOUT = Layout("MAE's (a plain ViT)", lambda entries: "patch_embed.proj.weight" in entries, to_own)
