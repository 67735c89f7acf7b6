"""What a JSON file of labels looks like, for the message of a reader that cannot read it."""

from __future__ import annotations

from pathlib import Path

from raf_ray.data.annotations.fields import brief

FORMS = (
    ("coco", "COCO's form", ("images", "annotations", "categories"), ()),
    ("mpii", "MPII's lists", (), ("image", "joints", "joints_vis", "center", "scale")),
    ("label_studio", "Label Studio's JSON", (), ("data", "annotations", "predictions", "file_upload")),
    ("", "LabelMe's form, which nothing here reads", ("shapes", "imagePath", "imageData", "flags"), ()),
    ("", "VIA's form, which nothing here reads", ("_via_settings", "_via_img_metadata", "_via_attributes"), ()),
    ("", "Label Studio's JSON-MIN, which lacks whose point is whose", (), ("image", "annotator", "annotation_id")),
    ("", "CreateML's form, which nothing here reads", (), ("image", "annotations")),
)
"""data.name that reads it ("": none), what it is called, keys of the whole (an object), keys of its entries (a list)"""

SHOWN = 6
"""Keys that a message shows; a choice."""


def not_in_form(content: object, wanted: str, file: Path) -> str:
    """A sentence: the file is not in form `wanted`, what it has instead, and which form is the nearest."""
    seen = content[0] if isinstance(content, list) and content else content
    keys = [str(key) for key in seen] if isinstance(seen, dict) else []
    kind = "a list" if isinstance(content, list) else "an object" if isinstance(content, dict) else "neither"
    begin = f"{file} is not in {wanted}: it is {kind}"
    if kind == "neither":
        return f"{begin} a list nor an object; set data.annotations"
    told = ", ".join(brief(key) for key in keys[:SHOWN]) or "no keys"
    begin += f" {'of entries ' if kind == 'a list' else ''}with {told}{' ...' if len(keys) > SHOWN else ''}"
    shares = [len(set(keys) & set(whole if kind == "an object" else entry)) for _, _, whole, entry in FORMS]
    if not max(shares):
        return f"{begin}, which no reader knows; set data.annotations"
    name, called, _, _ = FORMS[shares.index(max(shares))]
    remedy = f"set data.name={name}" if name and called != wanted else "export it in COCO's keypoint form"
    return f"{begin}; the nearest is {called}; {remedy if called != wanted else 'set data.annotations'}"
