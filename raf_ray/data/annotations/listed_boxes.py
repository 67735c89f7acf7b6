"""People's boxes as a file lists them for pictures: by name, or in COCO's two forms."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raf_ray.data.annotations.boxes import box_fault
from raf_ray.data.annotations.fields import SMALLEST, check_pixels, flag, given, number, numbers, shown, whole
from raf_ray.errors import InputError
from raf_ray.files import read_json

FORM = '{"picture.jpg": [[x, y, width, height], ...]}'


@dataclass(frozen=True)
class ListedBoxes:
    """Boxes of many pictures."""

    file: Path
    boxes: Mapping[str, np.ndarray]
    """Picture, as the file names it -> (N, 4) x, y, width, height in pixels"""
    ids: Mapping[str, int] = field(default_factory=dict)
    """Picture -> COCO's id of it; of results, which name none, the id is the name"""
    is_coco: bool = False
    """A picture without boxes then has nobody in it; else it is an error"""

    def of(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Each picture's boxes: by its path as given, else by its bare name, else by the number that it is called.

        Raises InputError where there are none, or where a bare name means several of the pictures.
        """
        keys = {name: self._key(name, names) for name in names}
        if not any(key is not None for key in keys.values()):
            raise InputError(f"--boxes {self.file} has no entry for any of the pictures, such as {names[0]!r}")
        nobody = np.zeros((0, 4))
        return {name: nobody if key is None else self.boxes.get(key, nobody) for name, key in keys.items()}

    def id_of(self, name: str) -> int | None:
        """COCO's id of a picture, where the file has one."""
        key = self._key(name, [name])
        return self.ids.get(key) if key is not None else None

    def _key(self, name: str, names: Sequence[str]) -> str | None:
        bare, known = os.path.basename(name), self.ids if self.is_coco else self.boxes
        for key in known:
            if os.path.normpath(key) == os.path.normpath(name):
                return key
        if bare not in known:
            number = bare.partition(".")[0]
            if self.is_coco:
                return str(int(number)) if number.isdecimal() and str(int(number)) in known else None
            raise InputError(f"--boxes {self.file} has no entry {name!r}" + (f" or {bare!r}" if bare != name else ""))
        same = [other for other in dict.fromkeys(names) if os.path.basename(other) == bare]
        if len(same) > 1:
            raise InputError(
                f"--boxes {self.file}: {bare!r} may mean {same[0]!r} or {same[1]!r}; name each by its path as given"
            )
        return bare


def read_boxes(path: Path, least_score: float = 0.0) -> ListedBoxes:
    """Boxes by picture, COCO annotations or COCO results; InputError in one sentence for anything else.

    Args:
        least_score: boxes of COCO results below it are left out.
    """
    values = read_json(path, "--boxes")
    if isinstance(values, list) and values:
        return _results(path, values, least_score)
    if isinstance(values, dict) and {"images", "annotations"} <= values.keys():
        return _annotations(path, values)
    if not isinstance(values, dict):
        raise InputError(f"--boxes: {path} must be of the form {FORM}, or COCO annotations or results")
    found = {}
    for name, boxes in values.items():
        wrong = f"--boxes: {shown(name)} in {path} must list boxes of the form {FORM}, sizes above 0"
        if not isinstance(boxes, list) or not boxes or any(not isinstance(b, list) or len(b) != 4 for b in boxes):
            raise InputError(wrong)
        what = f"of {shown(name)}"
        found[name] = np.array(
            [numbers(b, (4,), f"box {i} {what}", f"--boxes: {path}") for i, b in enumerate(boxes, 1)]
        )
        if (found[name][:, 2:] < SMALLEST).any():
            raise InputError(wrong)
    return _checked(ListedBoxes(path, found))


def _annotations(path: Path, values: Mapping[str, Any]) -> ListedBoxes:
    """COCO annotations: crowds and boxes without a width or height are no person's."""
    for key in ("images", "annotations"):
        if not isinstance(values[key], list):
            raise InputError(f"--boxes: {path}: '{key}' must be a list, as in COCO annotations")
    names: dict[int, str] = {}
    for place, entry in enumerate(values["images"], 1):
        what = f"image {place}"
        name = given(entry, "file_name", what, path)
        names[whole(given(entry, "id", what, path), f"'id' of {what}", path)] = str(name)
    rows: list[tuple[str, np.ndarray]] = []
    for place, entry in enumerate(values["annotations"], 1):
        what = f"annotation {place}"
        image = whole(given(entry, "image_id", what, path), f"'image_id' of {what}", path)
        if image not in names:
            raise InputError(f"--boxes: {path}: {what} is of image {image}, which 'images' does not list; correct it")
        box = numbers(given(entry, "bbox", what, path), (4,), f"'bbox' of {what}", path)
        if not flag(entry.get("iscrowd"), f"'iscrowd' of {what}", path) and (box[2:] >= SMALLEST).all():
            rows.append((names[image], box))
    return _checked(ListedBoxes(path, _by_name(rows), {name: number for number, name in names.items()}, True))


def _results(path: Path, values: Sequence[Any], least_score: float) -> ListedBoxes:
    """COCO results: a list of {image_id, bbox, score}."""
    rows, ids = [], {}
    for place, entry in enumerate(values, 1):
        what = f"result {place}"
        image = whole(given(entry, "image_id", what, path), f"'image_id' of {what}", path)
        box = numbers(given(entry, "bbox", what, path), (4,), f"'bbox' of {what}", path)
        score = number(given(entry, "score", what, path), f"'score' of {what}", path)
        ids[str(image)] = image
        if score >= least_score and (box[2:] >= SMALLEST).all():
            rows.append((str(image), box))
    return _checked(ListedBoxes(path, _by_name(rows), ids, True))


def _by_name(rows: Sequence[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    for name, box in rows:
        found.setdefault(name, []).append(box)
    return {name: np.stack(boxes) for name, boxes in found.items()}


def _checked(listed: ListedBoxes) -> ListedBoxes:
    check_pixels(np.concatenate([*listed.boxes.values(), np.zeros((0, 4))]), "boxes", f"--boxes: {listed.file}")
    return listed


def check_in_picture(boxes: np.ndarray, size: tuple[int, int], what: str) -> None:
    """Raise InputError for a box (N, 4) that is far larger than its picture (width, height), or lies beside it."""
    for box in boxes:
        fault = box_fault(box[2:], size)
        if fault:
            raise InputError(f"{what} has {fault}; boxes are [x, y, width, height] in pixels")
        if (box[:2] >= size).any() or (box[:2] + box[2:] <= 0).any():
            numbers = ", ".join(f"{value:g}" for value in box)
            raise InputError(
                f"{what} has the box [{numbers}], outside its picture of {size[0]} x {size[1]} px; boxes are [x, y, "
                "width, height] in pixels"
            )
