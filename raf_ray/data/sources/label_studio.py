"""People from Label Studio's own JSON export (labelstud.io/guide/export): boxes, and points that belong to them.

A task is a picture; its regions are ``rectanglelabels`` (a person) and ``keypointlabels`` (a joint each), in percent of
the picture. ``parentID`` says whose a point is: in the tool, points are dragged onto their box in the list of regions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from raf_ray.data.annotations.boxes import check_boxes
from raf_ray.data.annotations.categories import unknown_category
from raf_ray.data.annotations.coco_entries import AREA_OF_BOX, NO_BOX
from raf_ray.data.annotations.fields import SMALLEST, brief, given, number, text, warn_once, whole
from raf_ray.data.annotations.forms import not_in_form
from raf_ray.data.annotations.joints import own_skeleton, plain_name
from raf_ray.data.people import People
from raf_ray.data.pictures import PictureFiles, check_picture_folder, sizes_given
from raf_ray.data.skeletons import SKELETONS, Skeleton
from raf_ray.data.sources import Asked, FileSplit
from raf_ray.data.sources.coco import existing_root, read_annotations
from raf_ray.errors import InputError

NAMES = ("label_studio",)

NO_PARENT = "points that belong to no box"


@dataclass
class Person:
    """A box with its points, in pixels."""

    picture: int
    box: np.ndarray
    """(4,) x, y, width, height around the box, which may be turned"""
    label: str
    joints: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Plain name -> x, y"""


@dataclass
class Regions:
    """What is in an export: pictures, people, and why points or boxes are left out."""

    pictures: list[Mapping[str, Any]] = field(default_factory=list)
    """``name``, ``width``, ``height`` of each"""
    people: list[Person] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read(asked: Asked, split: FileSplit) -> People:
    root = existing_root(asked.root)
    file = export_file(root, asked.annotations, split)
    folder = root / asked.images[split] if asked.images and split in asked.images else root / "images"
    check_picture_folder(folder)
    people = label_studio_people(file, folder, asked.skeleton, asked.category)
    check_boxes(people, str(file))
    return people


def export_file(root: Path, annotations: Mapping[FileSplit, str] | None, split: FileSplit) -> Path:
    """The split's export: as data.annotations says, or for ``train`` the folder's only JSON file."""
    if annotations and split in annotations:
        return root / annotations[split]
    if split == "test":
        raise InputError(
            "data.annotations: Label Studio's export has no test split; set data.test_fraction to hold out some of its "
            "pictures, or data.annotations='{train: a.json, test: b.json}'"
        )
    found = sorted(root.glob("*.json"))
    if len(found) != 1:
        told = ", ".join(brief(file.name) for file in found[:4]) or "none"
        raise InputError(f"data.annotations: {root} must hold one JSON export (it has {told}); name it by split")
    return found[0]


def label_studio_people(file: Path, folder: Path, skeleton: Skeleton | None, category: str | None) -> People:
    """Every box with points of an export, in the file's order; pictures lie in `folder` by their last name.

    A point's percent of a side times the side is a pixel index, as in the tool's own export to COCO's form. Every
    point is visible: the tool does not say which are hidden. The area is AREA_OF_BOX of the box. `skeleton` None: the
    labels that occur, in the order of the built-in set that has the same, else by name, since the export does not
    list them. `category`: the label of boxes. Raises InputError for a file in another form, values that their field
    cannot have, and a file without usable people.
    """
    content = read_annotations(file)
    tasks = content if isinstance(content, list) else None
    if not tasks or not all(isinstance(t, dict) and isinstance(t.get("annotations"), list) for t in tasks):
        raise InputError(not_in_form(content, "Label Studio's JSON", file))
    if not any(isinstance(one, dict) for task in tasks for one in task["annotations"]):
        raise InputError(not_in_form(content, "Label Studio's JSON with whole annotations", file))
    found = read_regions(tasks, file)
    people = _of_category(found, category, file)
    labels = sorted({name for person in people for name in person.joints})
    joints = _joints_of(labels, skeleton, people[0].label, file)
    return _to_people(people, found, joints, file, folder)


def read_regions(tasks: Sequence[Any], file: Path) -> Regions:
    """All boxes with their points, of each task's first annotation that was not skipped. Raises InputError."""
    found = Regions()
    for place, task in enumerate(tasks):
        what = f"task {task.get('id', place)}"
        chosen = [a for a in task["annotations"] if isinstance(a, dict) and not a.get("was_cancelled")]
        if not chosen:
            continue
        if len(chosen) > 1:
            warn_once(f"{file}: tasks with several annotations, such as {what}: the first of each is read")
        result = given(chosen[0], "result", what, file)
        regions = [r for r in result if isinstance(r, dict)] if isinstance(result, list) else []
        sized = next((r for r in regions if r.get("original_width") is not None), None)
        if sized is None:
            continue
        found.pictures.append(
            {
                "name": _picture_name(task, what, file),
                "width": _side(sized, "original_width", what, file),
                "height": _side(sized, "original_height", what, file),
            }
        )
        _add_people(regions, found, what, file)
    return found


def _side(region: Mapping[str, Any], key: str, what: str, file: Path) -> int:
    side = whole(given(region, key, what, file), f"'{key}' of {what}", file, "sizes")
    if side < 1:
        raise InputError(f"{file}: '{key}' of {what} is {side}, but must be the picture's side in pixels; correct it")
    return side


def _add_people(regions: Sequence[Mapping[str, Any]], found: Regions, what: str, file: Path) -> None:
    """The boxes of the newest picture, each with the points whose ``parentID`` it is."""
    picture = found.pictures[-1]
    size = np.array([picture["width"], picture["height"]], np.float64)
    boxes: dict[str, Person] = {}
    for region in regions:
        labels = _labels(region, "rectanglelabels")
        if labels:
            where = f"box {brief(str(region.get('id')))} of {what}"
            box = _box(given(region, "value", where, file), size, where, file)
            boxes[str(region.get("id"))] = Person(len(found.pictures) - 1, box, labels[0])
    for region in regions:
        labels = _labels(region, "keypointlabels")
        if not labels:
            continue
        where = f"point '{brief(labels[0])}' of {what}"
        owner = boxes.get(str(region.get("parentID")))
        if owner is None:
            found.left_out[NO_PARENT] += 1
            continue
        name = plain_name(labels[0])
        if name in owner.joints:
            raise InputError(f"{file}: {where} is there twice in one box; remove one or give it its own box")
        value = given(region, "value", where, file)
        x, y = (number(given(value, key, where, file), f"'{key}' of {where}", file) for key in "xy")
        owner.joints[name] = (x / 100 * size[0], y / 100 * size[1])
    for person in boxes.values():
        if not person.joints:
            found.left_out["boxes without a point"] += 1
        elif (person.box[2:] < SMALLEST).any():
            found.left_out[f"boxes {NO_BOX}"] += 1
        else:
            found.people.append(person)


def _labels(region: Mapping[str, Any], kind: str) -> list[str]:
    value = region.get("value")
    labels = value.get(kind) if isinstance(value, dict) else None
    return [label for label in labels if isinstance(label, str)] if isinstance(labels, list) else []


def _box(value: Mapping[str, Any], size: np.ndarray, what: str, file: Path) -> np.ndarray:
    """(4,) x, y, width, height in pixels around a box, which Label Studio turns clockwise around its corner x, y."""
    x, y, width, height = (
        number(given(value, key, what, file), f"'{key}' of {what}", file) for key in ("x", "y", "width", "height")
    )
    turn = np.radians(number(value.get("rotation") or 0, f"'rotation' of {what}", file))
    sides = np.array([width, height]) / 100 * size
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * sides
    turned = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    low, high = turned.min(axis=0), turned.max(axis=0)
    return np.concatenate([np.array([x, y]) / 100 * size + low, high - low])


def _picture_name(task: Mapping[str, Any], what: str, file: Path) -> str:
    """The last name in the path or URL of a task's picture; of local files, that in ``?d=``."""
    data = given(task, "data", what, file)
    values = data if isinstance(data, dict) else {}
    key = "image" if "image" in values else next((k for k, v in values.items() if isinstance(v, str)), "image")
    address = urlsplit(text(given(data, key, f"'data' of {what}", file), f"'{key}' of {what}", file))
    local = parse_qs(address.query).get("d")
    return PurePosixPath((local[0] if local else unquote(address.path)).replace("\\", "/")).name


def _of_category(found: Regions, category: str | None, file: Path) -> list[Person]:
    """The people to use. Raises InputError where there are none, or of several labels and none was asked for."""
    if not found.people:
        told = ", ".join(f"{count} {why}" for why, count in found.left_out.items()) or "no box and no point"
        remedy = (
            "they were drawn without a skeleton: in the tool drag each point onto its box in the list of regions, "
            "which sets parentID" if found.left_out[NO_PARENT] else "draw a box and its points for each person"
        )  # fmt: skip
        raise InputError(f"{file} holds no person to use ({told}); {remedy}")
    if found.left_out:
        told = ", ".join(f"{count} {why}" for why, count in found.left_out.items())
        warn_once(f"{file}: left out: {told}")
    own = sorted({person.label for person in found.people})
    plain = {label.strip().lower() for label in own}
    wanted = category.strip().lower() if category is not None else "person" if "person" in plain else None
    if category is not None and wanted not in plain:
        raise InputError(unknown_category(category, [brief(label) for label in own], file))
    if wanted is None and len(own) > 1:
        raise InputError(f"{file} has boxes of {', '.join(map(brief, own))}; set data.category to the one to read")
    return [person for person in found.people if wanted is None or person.label.strip().lower() == wanted]


def _joints_of(labels: Sequence[str], skeleton: Skeleton | None, name: str, file: Path) -> Skeleton:
    if skeleton is None:
        known = next((s for s in SKELETONS.values() if sorted(s.joints) == list(labels)), None)
        return known or own_skeleton(name, labels, None, file)
    other = [label for label in labels if label not in map(plain_name, skeleton.joints)]
    if other:
        raise InputError(
            f"{file} has points labelled {', '.join(map(brief, other[:4]))}, which skeleton '{skeleton.name}' lacks; "
            "leave data.skeleton out to take the file's own joints, or set another"
        )
    return skeleton


def _to_people(people: Sequence[Person], found: Regions, skeleton: Skeleton, file: Path, folder: Path) -> People:
    index = {plain_name(name): k for k, name in enumerate(skeleton.joints)}
    points = np.zeros((len(people), len(skeleton), 3), np.float64)
    for i, person in enumerate(people):
        for name, place in person.joints.items():
            points[i, index[name]] = (*place, 2)
    box = np.stack([person.box for person in people])
    used, rows = np.unique(np.array([person.picture for person in people], np.int64), return_inverse=True)
    pictures = [found.pictures[row] for row in used]
    return People(
        skeleton=skeleton,
        joints=points[:, :, :2].astype(np.float32),
        visibility=points[:, :, 2].astype(np.uint8),
        centre=(box[:, :2] + box[:, 2:] / 2 - 0.5).astype(np.float32),
        box=box[:, 2:].astype(np.float32),
        area=(AREA_OF_BOX * box[:, 2:].prod(axis=1)).astype(np.float32),
        head_size=np.full(len(people), np.nan, np.float32),
        person_id=np.arange(len(people), dtype=np.int64),
        picture_id=used[rows],
        rows=rows.astype(np.int64),
        read=PictureFiles(tuple(str(folder / p["name"]) for p in pictures), str(file), sizes_given(pictures)),
    )
