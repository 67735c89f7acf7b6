"""People from a data set in Ultralytics' YOLO pose form (docs.ultralytics.com/datasets/pose).

``data.yaml`` names the splits' pictures, ``kpt_shape`` (K joints of 2 or 3 numbers), ``flip_idx`` (each joint's mirror
image) and ``names`` of classes. Labels lie in ``labels/`` beside ``images/``: a text file a picture, a line a person:
class, box centre x, y, width, height, then the joints, as shares of the picture. The form has no area and no crowds.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raf_ray.data.annotations.boxes import check_boxes
from raf_ray.data.annotations.coco_entries import AREA_OF_BOX, NO_BOX
from raf_ray.data.annotations.fields import as_number, settle_joints, shown, warn_once
from raf_ray.data.annotations.yolo_yaml import DataYaml, read_data_yaml, split_pictures
from raf_ray.data.people import People
from raf_ray.data.pictures import HEADER_THREADS, PictureFiles, stored_orientation, stored_size
from raf_ray.data.sources import Asked, FileSplit
from raf_ray.data.sources.coco import existing_root
from raf_ray.errors import InputError
from raf_ray.files import read_text

NAMES = ("yolo_pose",)

BOX = 5
"""Numbers of a line before its joints: class and box"""
LEAST_SIDE = 1e-6
"""Share of a picture below which a box has no side; a choice, below a hundredth of a pixel."""
OUTSIDE = 0.5
"""Share of the picture that a coordinate may lie outside it; beyond, it is taken for pixels. A choice."""


@dataclass
class Lines:
    """N people as they are read."""

    joints: list[np.ndarray]
    """N arrays (K, 3) of x, y as shares and v"""
    boxes: list[np.ndarray]
    """N arrays (4,): centre x, y, width, height as shares"""
    rows: list[int]
    """N places of their pictures in the list"""
    left_out: dict[str, int]
    """Why -> how many"""


def read(asked: Asked, split: FileSplit) -> People:
    root = existing_root(asked.root)
    described = read_data_yaml(root, asked.skeleton, asked.category)
    pictures = split_pictures(described, root, split, asked.images)
    lines = read_lines(pictures, described)
    people = to_people(lines, pictures, described)
    check_boxes(people, str(described.file))
    return people


def label_file(picture: Path) -> Path:
    """Where Ultralytics looks for a picture's labels: the last folder ``images`` of its path becomes ``labels``."""
    parts = list(picture.parts)
    at = max((i for i, part in enumerate(parts[:-1]) if part == "images"), default=None)
    if at is not None:
        parts[at] = "labels"
    return Path(*parts).with_suffix(".txt")


def read_lines(pictures: Sequence[Path], described: DataYaml) -> Lines:
    """Every usable line of the pictures' label files; a picture without one has nobody. Raises InputError."""
    lines = Lines([], [], [], {})
    files = 0
    for row, picture in enumerate(pictures):
        file = label_file(picture)
        if not file.is_file():
            continue
        files += 1
        for number, line in enumerate(read_text(file, "label file").splitlines(), 1):
            if line.strip():
                why = _read_line(line, row, f"line {number}", file, described, lines)
                lines.left_out[why] = lines.left_out.get(why, 0) + 1
    lines.left_out.pop("", None)
    if not lines.joints:
        told = ", ".join(f"{count} {why}" for why, count in lines.left_out.items()) or "none"
        raise InputError(
            f"{described.file}: no person to use in {files} label files of {len(pictures)} pictures (lines left out: "
            f"{told}); labels must lie in labels/ beside images/, such as {label_file(pictures[0])}"
        )
    if NO_BOX in lines.left_out:
        warn_once(f"{described.file}: people left out, since they have no box: {lines.left_out[NO_BOX]}")
    return lines


def _read_line(line: str, row: int, what: str, file: Path, described: DataYaml, lines: Lines) -> str:
    """Add a line's person, or say why it is left out. Raises InputError where it does not fit ``kpt_shape``."""
    words, joints, dim = line.split(), len(described.skeleton), described.dim
    wanted = BOX + joints * dim
    if len(words) != wanted:
        raise InputError(f"{file}: {what} has {len(words)} numbers, {_misfit(len(words), joints, dim, described.file)}")
    values = [as_number(word) if word.lower() not in ("nan", "-nan") else float("nan") for word in words]
    if None in values:
        bad = words[values.index(None)]
        raise InputError(f"{file}: {what} must be {wanted} numbers; number {values.index(None) + 1} is {shown(bad)}")
    numbers = np.array(values, np.float64)
    class_id = numbers[0]
    if class_id not in range(len(described.classes)):
        raise InputError(
            f"{file}: {what} is of class {words[0]}, but {described.file} names {len(described.classes)} from 0"
        )
    if class_id != described.class_id:
        return "of another class"
    points = np.ones((joints, 3))
    points[:, :dim] = numbers[BOX:].reshape(joints, dim)
    if dim == 3:
        if not {0.0, 1.0, 2.0}.issuperset(points[:, 2].tolist()):
            raise InputError(f"{file}: {what} has a visibility other than 0, 1 and 2; correct it")
    else:  # without visibility a joint that is not labelled is written as 0, 0, below 0 or NaN
        points[:, 2] = np.where((points[:, :2] > 0).any(axis=1) & ~(points[:, :2] < 0).any(axis=1), 2, 0)
    labelled = points[:, 2] > 0
    settle_joints(points[:, :2], labelled, described.skeleton, f"the joints of {what}", file)
    if not labelled.any():
        return "without a labelled joint"
    box = numbers[1:BOX]
    if not (box[2:] >= LEAST_SIDE).all():
        return NO_BOX
    if (np.abs(np.concatenate([points[labelled, :2].ravel(), box]) - 0.5) > 0.5 + OUTSIDE).any():
        raise InputError(
            f"{file}: {what} has coordinates far outside 0 to 1, but they must be shares of the picture's sides; "
            "divide pixels by its width and height"
        )
    lines.joints.append(points)
    lines.boxes.append(box)
    lines.rows.append(row)
    return ""


def _misfit(count: int, joints: int, dim: int, file: Path) -> str:
    """Why a line's number of numbers is not that of ``kpt_shape``."""
    shape = f"'kpt_shape' [{joints}, {dim}] of {file} asks for {BOX + joints * dim}"
    if count == BOX:
        return f"a class and a box alone, where {shape}: its points were lost; export it in the pose form"
    for other in (2, 3):
        if count > BOX and (count - BOX) % other == 0 and (other != dim or (count - BOX) // other != joints):
            fits = [f"[{(count - BOX) // n}, {n}]" for n in (2, 3) if (count - BOX) % n == 0]
            return f"but {shape}; the line fits {' or '.join(fits)}"
    return f"but {shape}; correct the line"


def to_people(lines: Lines, pictures: Sequence[Path], described: DataYaml) -> People:
    """The lines' people in pixels, of which each picture's header gives the size.

    A share of a side times the side is a pixel index, as in the files that Ultralytics makes of COCO's. `person_id`
    counts the lines that are used, `picture_id` is the picture's place in the sorted list. `category_id` is the class,
    from 1, as in the COCO results that Ultralytics writes.
    """
    used, rows = np.unique(np.array(lines.rows, np.int64), return_inverse=True)
    paths = tuple(str(pictures[row]) for row in used)
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        sizes = np.array(list(pool.map(stored_size, paths)), np.float64)[rows]
        turned = [path for path, tag in zip(paths, pool.map(stored_orientation, paths), strict=True) if tag != 1]
    if turned:
        warn_once(
            f"{described.file}: {len(turned)} pictures with labels have an EXIF orientation ({turned[0]}): labels "
            "are taken to lie in the stored picture; save such pictures upright before they are labelled"
        )
    points, boxes = np.stack(lines.joints), np.stack(lines.boxes)
    centre, sides = boxes[:, :2] * sizes, boxes[:, 2:] * sizes
    return People(
        skeleton=described.skeleton,
        joints=(points[:, :, :2] * sizes[:, None]).astype(np.float32),
        visibility=points[:, :, 2].astype(np.uint8),
        centre=(centre - 0.5).astype(np.float32),
        box=sides.astype(np.float32),
        area=(AREA_OF_BOX * sides.prod(axis=1)).astype(np.float32),
        head_size=np.full(len(rows), np.nan, np.float32),
        person_id=np.arange(len(rows), dtype=np.int64),
        picture_id=used[rows],
        rows=rows.astype(np.int64),
        read=PictureFiles(paths, str(described.file)),
        category_id=described.class_id + 1,
    )
