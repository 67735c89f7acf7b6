"""The entries of a file in COCO's form: its images and annotations, each checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raf_ray.data.annotations.fields import (
    LARGEST,
    SMALLEST,
    check_once,
    flag,
    given,
    number,
    numbers,
    settle_joints,
    text,
    warn_once,
    whole,
)
from raf_ray.data.skeletons import Skeleton
from raf_ray.errors import InputError

AREA_OF_BOX = 0.53
"""Segment area as a share of the box's, where a file gives none (MMPose's convention for CrowdPose)."""

NO_BOX = "without a valid box"


@dataclass(frozen=True)
class Entries:
    """N people to use and M regions to ignore, in the file's order."""

    keypoints: list[np.ndarray] = field(default_factory=list)
    """N arrays (K, 3) of x, y, v"""
    boxes: list[np.ndarray] = field(default_factory=list)
    """N arrays (4,) of x, y, width, height"""
    areas: list[float] = field(default_factory=list)
    person_ids: list[int] = field(default_factory=list)
    picture_ids: list[int] = field(default_factory=list)
    ignored: list[tuple[int, list[float], float, bool]] = field(default_factory=list)
    """M picture ids, boxes, areas, and whether it is a crowd"""


def read_images(images: Sequence[Any], file: Path) -> dict[int, Any]:
    """The images' entries by id. What else they hold is looked at only where a person uses it."""
    ids = []
    for place, image in enumerate(images):
        what = f"images[{place}]"
        ids.append(whole(given(image, "id", what, file), f"'id' of {what}", file))
    check_once(ids, "image", file)
    return dict(zip(ids, images, strict=True))


def picture_name(picture_id: int, image: Any, file: Path) -> str:
    """The `file_name` of an image that a person uses. Raises InputError, also where its width or height is none."""
    what = f"image {picture_id}"
    for side in ("width", "height"):
        if image.get(side) is not None:
            number(image[side], f"'{side}' of {what}", file)
    return text(given(image, "file_name", what, file), f"'file_name' of {what}", file)


def read_annotated(
    annotations: Sequence[Any], category_id: int, pictures: Mapping[int, Any], skeleton: Skeleton, file: Path
) -> Entries:
    """Who of the annotations is used, and what is ignored. Raises InputError, also where nobody is left."""
    found, ids = Entries(), []
    dropped: Counter[str] = Counter()
    for place, annotation in enumerate(annotations):
        what = f"annotations[{place}]"
        person_id = whole(given(annotation, "id", what, file), f"'id' of {what}", file)
        ids.append(person_id)
        what = f"annotation {person_id}"
        if whole(given(annotation, "category_id", what, file), f"'category_id' of {what}", file) != category_id:
            dropped["of another category"] += 1
            continue
        picture_id = whole(given(annotation, "image_id", what, file), f"'image_id' of {what}", file)
        if picture_id not in pictures:
            raise InputError(
                f"{file}: {what} points at image {picture_id}, which the file's images do not list; add the image "
                "or remove the annotation"
            )
        crowd = flag(annotation.get("iscrowd"), f"'iscrowd' of {what}", file)
        if crowd or _says_no_joint(annotation, what, file):
            dropped["of a crowd" if crowd else "without a labelled joint"] += 1
            region = _box(annotation, what, file)
            if region is not None:
                found.ignored.append((picture_id, region.tolist(), _area(annotation, region, what, file), crowd))
            continue
        points = _keypoints(annotation, skeleton, what, file)
        if not (points[:, 2] > 0).any():
            dropped["without a labelled joint"] += 1
            continue
        box = _box(annotation, what, file)
        if box is None or box[2] < SMALLEST or box[3] < SMALLEST:
            dropped[NO_BOX] += 1
            continue
        found.keypoints.append(points)
        found.boxes.append(box)
        found.areas.append(_area(annotation, box, what, file))
        found.person_ids.append(person_id)
        found.picture_ids.append(picture_id)
    if not found.keypoints:
        told = ", ".join(f"{count} {why}" for why, count in dropped.items()) or "none"
        if dropped[NO_BOX]:
            told += "; tools write boxes of 0 x 0 where only points were drawn: draw boxes too, or export them"
        raise InputError(f"{file} holds no person to use (annotations: {told}); set data.annotations")
    check_once(ids, "annotation", file)
    if dropped[NO_BOX]:
        warn_once(
            f"{file}: people with labelled joints left out, since they have no box or one of 0 x 0: {dropped[NO_BOX]}"
        )
    return found


def _says_no_joint(annotation: Mapping[str, Any], what: str, file: Path) -> bool:
    """Whether `num_keypoints` is there and 0."""
    count = annotation.get("num_keypoints")
    return count is not None and whole(count, f"'num_keypoints' of {what}", file, "counts") == 0


def _keypoints(annotation: Mapping[str, Any], skeleton: Skeleton, what: str, file: Path) -> np.ndarray:
    """(K, 3) x, y, v; coordinates of a joint that is not labelled are 0 where they are none."""
    values = given(annotation, "keypoints", what, file)
    wanted = 3 * len(skeleton)
    if not isinstance(values, list) or len(values) != wanted:
        length = len(values) if isinstance(values, list) else "no"
        raise InputError(
            f"{file}: {what} has {length} keypoint numbers, not {wanted} (x, y, v of {len(skeleton)} "
            "joints); correct or remove it"
        )
    points = numbers(values, (wanted,), f"'keypoints' of {what}", file, unknown=True).reshape(-1, 3)
    if not {0.0, 1.0, 2.0}.issuperset(points[:, 2].tolist()):
        raise InputError(f"{file}: 'keypoints' of {what} has a visibility other than 0, 1 and 2; correct it")
    settle_joints(points[:, :2], points[:, 2] > 0, skeleton, f"'keypoints' of {what}", file)
    return points


def _box(annotation: Mapping[str, Any], what: str, file: Path) -> np.ndarray | None:
    """(4,) x, y, width, height; None where it is missing or empty."""
    value = annotation.get("bbox")
    return None if value is None or value == [] else numbers(value, (4,), f"'bbox' of {what}", file)


def _area(annotation: Mapping[str, Any], box: np.ndarray, what: str, file: Path) -> float:
    """The segment's area; AREA_OF_BOX of the box's where it is missing or not positive."""
    value = annotation.get("area")
    area = 0.0 if value is None else number(value, f"'area' of {what}", file, LARGEST**2)
    return area if area >= SMALLEST**2 else float(AREA_OF_BOX * box[2] * box[3])
