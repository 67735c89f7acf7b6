"""Hugging Face's VitPoseForPoseEstimation, with the classic or the simple head.

Its query, key and value are three layers where ours, as the official ViTPose's, are one.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from raf_ray.models.layouts import Entries, Layout, renamed

RULES = {
    "backbone.embeddings.patch_embeddings.projection.": "backbone.patch_embed.proj.",
    "backbone.embeddings.position_embeddings": "backbone.pos_embed",
    "backbone.embeddings.cls_token": "backbone.cls_token",
    "backbone.layernorm.": "backbone.last_norm.",
    "head.deconv1.": "keypoint_head.deconv_layers.0.",
    "head.batchnorm1.": "keypoint_head.deconv_layers.1.",
    "head.deconv2.": "keypoint_head.deconv_layers.3.",
    "head.batchnorm2.": "keypoint_head.deconv_layers.4.",
    "head.conv.": "keypoint_head.final_layer.",
}

OF_A_BLOCK = {
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "attention.output.dense.": "attn.proj.",
}

QKV = ("query", "key", "value")


def to_own(entries: Entries) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in renamed(entries, RULES).items():
        block = re.match(r"backbone\.encoder\.layer\.(\d+)\.", name)
        if block is None:
            found[name] = value
            continue
        ((inside, _),) = renamed({name[block.end() :]: value}, OF_A_BLOCK).items()
        part = re.fullmatch(r"attention\.attention\.(query|key|value)\.(weight|bias)", inside)
        whole = [f"{block[0]}attention.attention.{which}.{part[2]}" for which in QKV] if part is not None else []
        if part is None or not all(one in entries for one in whole):
            found[f"backbone.blocks.{block[1]}.{inside}"] = value
        elif part[1] == QKV[0]:
            found[f"backbone.blocks.{block[1]}.attn.qkv.{part[2]}"] = torch.cat([entries[one] for one in whole])
    return found


LAYOUT = Layout(
    "Hugging Face's VitPose",
    lambda entries: "backbone.embeddings.patch_embeddings.projection.weight" in entries,
    to_own,
)
