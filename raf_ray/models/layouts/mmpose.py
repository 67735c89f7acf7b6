"""MMPose 1.x: its ViTPose has the backbone of mmpretrain's VisionTransformer; other models have `head.*`.

Its older models, and ViTPose's official code, which is a fork of MMPose 0.x, are `vitpose.py`'s.
"""

from __future__ import annotations

import re

from torch import Tensor

from raf_ray.models.layouts import Entries, Layout, renamed

RULES = {
    "backbone.patch_embed.projection.": "backbone.patch_embed.proj.",
    "backbone.ln1.": "backbone.last_norm.",
    "head.": "keypoint_head.",
}

OF_A_BLOCK = {"ln1.": "norm1.", "ln2.": "norm2.", "ffn.layers.0.0.": "mlp.fc1.", "ffn.layers.1.": "mlp.fc2."}


def to_own(entries: Entries) -> dict[str, Tensor]:
    found = {}
    for name, value in renamed(entries, RULES).items():
        block = re.match(r"backbone\.layers\.(\d+)\.", name)
        if block is not None:
            ((inside, _),) = renamed({name[block.end() :]: value}, OF_A_BLOCK).items()
            name = f"backbone.blocks.{block[1]}.{inside}"
        found[name] = value
    return found


LAYOUT = Layout("MMPose's", lambda entries: "backbone.patch_embed.projection.weight" in entries, to_own)
