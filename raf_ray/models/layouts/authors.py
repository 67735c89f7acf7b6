"""The RAF authors' ViTPose, which their training saves as it is: its names are ours, of `model.variant=authors`."""

from __future__ import annotations

from raf_ray.models.layouts import Layout

LAYOUT = Layout(
    "the RAF authors'",
    lambda entries: "backbone.global_pos_embed.embed_layer.weight" in entries,
    dict,
    ours=True,
)
