"""Which category of a file in COCO's form holds the people, and what is said of a file where none can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raf_ray.data.annotations.fields import as_number, brief, given, shown, whole
from raf_ray.errors import InputError

PLACEHOLDER = "none"
"""Supercategory of the category 0 that Roboflow writes above the real ones."""


@dataclass(frozen=True)
class Category:
    id: int
    name: str
    joints: list[Any]
    """The names as the file has them"""
    limbs: object
    """Its ``skeleton``, unchecked"""


def find_category(content: Mapping[str, Any], wanted: str | None, file: Path) -> Category:
    """The category of that name; null: the one that lists keypoints, or of several the one named person.

    A placeholder of Roboflow's does not count. Raises InputError where there is no such category or it has no id of
    its own; the file's own are listed.
    """
    entries = [c for c in content["categories"] if isinstance(c, dict)]
    with_joints = [c for c in entries if isinstance(c.get("keypoints"), list) and c["keypoints"]]
    if wanted is not None:
        found = [c for c in entries if name_of(c) == wanted.strip().lower()]
        if not found:
            raise InputError(unknown_category(wanted, [shown_name(c) for c in entries], file))
        with_joints = [c for c in found if c in with_joints]
    elif len(with_joints) > 1:
        with_joints = [c for c in with_joints if c.get("supercategory") != PLACEHOLDER]
        if len(with_joints) > 1:
            with_joints = [c for c in with_joints if name_of(c) == "person"]
    if not with_joints:
        raise InputError(_no_joints(content, entries, file))
    if len(with_joints) > 1:
        raise InputError(f"{file} has several categories '{brief(name_of(with_joints[0]))}'; give each its own name")
    (person,) = with_joints
    what = "the category of people"
    category_id = whole(given(person, "id", what, file), f"'id' of {what}", file)
    if any(as_number(c.get("id")) == category_id for c in entries if c is not person):
        raise InputError(f"{file}: {what} and another category have the id {category_id}; give each its own")
    name = person.get("name")
    return Category(category_id, name if isinstance(name, str) else "own", person["keypoints"], person.get("skeleton"))


def unknown_category(wanted: str, own: Sequence[str], file: Path) -> str:
    """The sentence for a category that a file does not have."""
    return f"data.category: {file} has no category {brief(wanted)}; it has {', '.join(own) or 'none'}"


def name_of(category: Mapping[str, Any]) -> str:
    name = category.get("name")
    return name.strip().lower() if isinstance(name, str) else ""


def shown_name(category: Mapping[str, Any]) -> str:
    name = category.get("name")
    return brief(name) if isinstance(name, str) else shown(name)


def _no_joints(content: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], file: Path) -> str:
    """Why nobody can be read of a file none of whose categories lists keypoints, or several do."""
    several = [c for c in entries if isinstance(c.get("keypoints"), list) and c["keypoints"]]
    own = ", ".join(shown_name(c) for c in entries) or "none"
    if several:
        return (
            f"{file} must have one category 'person' that lists its keypoints' names, or data.category must name one "
            f"that does; its categories are {own}"
        )
    begin = f"{file} must have one category 'person' that lists its keypoints' names, but none of its own ({own}) does"
    if any(isinstance(a, dict) and a.get("keypoints") for a in content["annotations"]):
        return (
            f"{begin}, although its annotations have points: they were drawn without a skeleton, so nothing says which "
            "joint and whose each is; draw one skeleton a person and export again"
        )
    return (
        f"{begin}, and no annotation has a point: it is an export of boxes or segments; export it in the tool's form "
        "for COCO keypoints, or set data.annotations to such a file"
    )
