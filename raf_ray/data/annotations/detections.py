"""Detected boxes of people in COCO's result form (cocodataset.org/#format-results), as people to be looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raf_ray.data.annotations.fields import SMALLEST, check_pixels, given, number, numbers, shown, warn_once, whole
from raf_ray.data.people import People
from raf_ray.data.pictures import PictureFiles
from raf_ray.errors import InputError
from raf_ray.files import read_json


@dataclass(frozen=True)
class Detections:
    """M boxes, as people without labels in the pictures of others."""

    people: People
    scores: np.ndarray
    """(M,) float64"""


def read_detections(file: Path, people: People) -> Detections:
    """The boxes of a detector in the pictures of `people`: a list of ``image_id``, ``bbox``, ``score``.

    Of several categories, theirs is read. Pictures in which nobody of `people` is are read too where their file lists
    them; boxes in others are left out, which a warning says. Raises InputError for another form, values that their
    field cannot have, and where no box is left.
    """
    what = "evaluation.boxes:"
    content = read_json(file, what)
    if not isinstance(content, list) or not content:
        form = '[{"image_id": 1, "category_id": 1, "bbox": [x, y, width, height], "score": 0.9}, ...]'
        raise InputError(f"{what} {file} must be a list of detections, {form}; it is {shown(content)}")
    several = len({str(one.get("category_id")) for one in content if isinstance(one, dict)}) > 1
    people, row_of = _with_others(people, content)
    pictures, boxes, scores, unknown = [], [], [], []
    for place, one in enumerate(content):
        which = f"detection {place}"
        picture = whole(given(one, "image_id", which, file), f"'image_id' of {which}", file)
        box = numbers(given(one, "bbox", which, file), (4,), f"'bbox' of {which}", file)
        score = number(given(one, "score", which, file), f"'score' of {which}", file)
        category = given(one, "category_id", which, file) if several else people.category_id
        if whole(category, f"'category_id' of {which}", file) != people.category_id:
            continue
        if picture not in row_of:
            unknown.append(picture)
        elif (box[2:] >= SMALLEST).all():
            pictures.append(picture)
            boxes.append(box)
            scores.append(score)
    if not boxes:
        told = f"its images, such as {unknown[0]}, are unknown there" if unknown else "it has no box of a person"
        raise InputError(f"{what} {file} has no detection in the pictures that are scored: {told}; give theirs")
    if unknown:
        warn_once(
            f"{what} {len(unknown)} of {len(content)} detections in {file} are of images that the people are not from "
            f"({len(set(unknown))}, such as {unknown[0]}): they are left out"
        )
    box_xywh = np.stack(boxes)
    check_pixels(box_xywh, "boxes", file)
    return Detections(_people_of(people, np.array(pictures, np.int64), box_xywh, row_of), np.array(scores))


def _with_others(people: People, content: list[Any]) -> tuple[People, dict[int, int]]:
    """The people with the other pictures of their file that have detections, and picture id -> row of all."""
    row_of = dict(zip(people.picture_id.tolist(), people.rows.tolist(), strict=True))
    files = people.read
    if not isinstance(files, PictureFiles) or not files.others:
        return people, row_of
    ids = (one.get("image_id") for one in content if isinstance(one, dict))
    asked = {picture for picture in ids if type(picture) is int}
    added = sorted(picture for picture in asked if picture in files.others and picture not in row_of)
    row_of |= {picture: len(files.paths) + place for place, picture in enumerate(added)}
    paths = files.paths + tuple(files.others[picture] for picture in added)
    return replace(people, read=PictureFiles(paths, files.annotations)), row_of


def _people_of(people: People, picture_id: np.ndarray, box: np.ndarray, row_of: dict[int, int]) -> People:
    count, joints = len(box), len(people.skeleton)
    return replace(
        people,
        joints=np.zeros((count, joints, 2), np.float32),
        visibility=np.zeros((count, joints), np.uint8),
        centre=(box[:, :2] + box[:, 2:] / 2 - 0.5).astype(np.float32),
        box=box[:, 2:].astype(np.float32),
        area=box[:, 2:].prod(axis=1).astype(np.float32),
        head_size=np.full(count, np.nan, np.float32),
        person_id=np.arange(count, dtype=np.int64),
        picture_id=picture_id,
        rows=np.array([row_of[picture] for picture in picture_id.tolist()], np.int64),
        ignored=None,
    )
