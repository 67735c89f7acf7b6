"""People from a file in COCO's person-keypoint form, of COCO itself or any set with a known list of joints.

Form and official layout: cocodataset.org (Lin et al. 2014). Who is left out follows the official top-down
tools (HRNet, MMPose): crowd regions, people without a labelled joint, people without a valid box.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raf_ray.data.people import Ignored, People
from raf_ray.data.pictures import PictureFiles, check_picture_folder, sizes_given
from raf_ray.data.skeletons import SKELETONS, Skeleton
from raf_ray.errors import InputError
from raf_ray.files import read_json
from raf_ray.paths import existing_folder

FileSplit = Literal["train", "test"]
"""Splits that data sets have files of; `val` is drawn from `train`."""

OFFICIAL: dict[FileSplit, str] = {"train": "train2017", "test": "val2017"}
"""COCO's labelled splits; its own test split has no public labels."""

AREA_OF_BOX = 0.53
"""Segment area as a share of the box's, where a file gives none (MMPose's convention for CrowdPose)."""


def coco_files(
    root: str | Path,
    annotations: Mapping[FileSplit, str] | None,
    images: Mapping[FileSplit, str] | None,
    split: FileSplit,
) -> tuple[Path, Path]:
    """Annotation file and picture folder of a split.

    `annotations` and `images` (relative to `root`, by split) replace COCO's official layout; nothing is
    guessed. Raises InputError where `root` is no folder.
    """
    folder = existing_root(root)
    name = OFFICIAL[split]
    annotation = (annotations or {}).get(split, f"annotations/person_keypoints_{name}.json")
    return folder / annotation, folder / (images or {}).get(split, name)


def coco_people(annotation_file: Path, picture_folder: Path, skeleton: Skeleton) -> People:
    """Every usable person of a COCO keypoint file, in the file's order; pictures are read when asked for.

    COCO's keypoints are 0-based pixel indices already. Its boxes are continuous, pixel i covering [i, i + 1),
    so a box's centre is moved by half a pixel. Where an area is missing or not positive (as some exporters
    write it), AREA_OF_BOX of the box stands in. `person_id` and `picture_id` are the file's ids.

    Raises InputError, in one sentence, for a file or folder that is missing, a file that is not in COCO's
    form, joints that are not the skeleton's, entries that contradict each other, and a file without usable
    people.
    """
    content = read_annotations(annotation_file)
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise InputError(_not_coco(annotation_file, content, part))
    check_picture_folder(picture_folder)
    category = _person_category(content["categories"], annotation_file)
    _check_joints(category["keypoints"], skeleton, annotation_file)

    images = {_id(image, "id", "an image", annotation_file): image for image in content["images"]}
    dropped: Counter[str] = Counter()
    keypoints, boxes, areas, person_ids, picture_ids = [], [], [], [], []
    ignored: list[tuple[int, list[float], float, bool]] = []
    for annotation in content["annotations"]:
        person_id = _id(annotation, "id", "an annotation", annotation_file)
        what = f"annotation {person_id}"
        if field(annotation, "category_id", what, annotation_file) != category.get("id"):
            dropped["of another category"] += 1
            continue
        picture_id = _id(annotation, "image_id", what, annotation_file)
        if picture_id not in images:
            raise InputError(
                f"{annotation_file}: {what} points at image {picture_id}, which the file's images do not "
                "list; add the image or remove the annotation"
            )
        if annotation.get("iscrowd") or annotation.get("num_keypoints") == 0:
            crowd = bool(annotation.get("iscrowd"))
            dropped["of a crowd" if crowd else "without a labelled joint"] += 1
            if annotation.get("bbox") is not None:
                region = numbers(annotation, "bbox", (4,), what, annotation_file)
                area = annotation.get("area")
                known = isinstance(area, int | float) and area > 0
                ignored.append(
                    (picture_id, region.tolist(), float(area if known else AREA_OF_BOX * region[2] * region[3]), crowd)
                )
            continue
        points = _person_keypoints(annotation, skeleton, what, annotation_file)
        if not (points[:, 2] > 0).any():
            dropped["without a labelled joint"] += 1
            continue
        no_box = annotation.get("bbox") is None
        box = np.zeros(4) if no_box else numbers(annotation, "bbox", (4,), what, annotation_file)
        if box[2] <= 0 or box[3] <= 0:
            dropped["without a valid box"] += 1
            continue
        area = annotation.get("area")
        given = isinstance(area, int | float) and area > 0
        keypoints.append(points)
        boxes.append(box)
        areas.append(area if given else AREA_OF_BOX * box[2] * box[3])
        person_ids.append(person_id)
        picture_ids.append(picture_id)
    if not keypoints:
        found = ", ".join(f"{count} {why}" for why, count in dropped.items()) or "none"
        raise InputError(f"{annotation_file} holds no person to use (annotations: {found}); set data.annotations")

    used, rows = np.unique(np.array(picture_ids, np.int64), return_inverse=True)
    names = [field(images[i], "file_name", f"image {i}", annotation_file) for i in used.tolist()]
    keypoints_nk3, box_xywh = np.stack(keypoints), np.stack(boxes)
    return People(
        skeleton=skeleton,
        joints=keypoints_nk3[:, :, :2].astype(np.float32),
        visibility=keypoints_nk3[:, :, 2].astype(np.uint8),
        centre=(box_xywh[:, :2] + box_xywh[:, 2:] / 2 - 0.5).astype(np.float32),
        box=box_xywh[:, 2:].astype(np.float32),
        area=np.array(areas, np.float32),
        head_size=np.full(len(areas), np.nan, np.float32),
        person_id=np.array(person_ids, np.int64),
        picture_id=used[rows],
        rows=rows.astype(np.int64),
        read=PictureFiles(
            tuple(str(picture_folder / str(name)) for name in names),
            str(annotation_file),
            sizes_given(images[i] for i in used.tolist()),
        ),
        ignored=Ignored(
            picture_id=np.array([entry[0] for entry in ignored], np.int64),
            box_xywh=np.array([entry[1] for entry in ignored], np.float64).reshape(-1, 4),
            area=np.array([entry[2] for entry in ignored], np.float64),
            crowd=np.array([entry[3] for entry in ignored], bool),
        ),
    )


def existing_root(root: str | Path) -> Path:
    """The data set's folder. Raises InputError where there is none."""
    return existing_folder(root, "data.root", "set data.root to the data set's folder").absolute()


def read_annotations(file: Path) -> Any:
    """The content of an annotation file. Raises InputError; see `raf_ray.files.read_json`."""
    return read_json(file, "annotation file", "set data.root, or data.annotations to a file below it")


def field(entry: Any, key: str, what: str, file: Path) -> Any:
    """``entry[key]``. Raises InputError where `what` has no such field."""
    if not isinstance(entry, dict) or key not in entry:
        raise InputError(f"{file}: {what} has no '{key}'; add it")
    return entry[key]


def numbers(entry: Any, key: str, shape: tuple[int, ...], what: str, file: Path) -> np.ndarray:
    """``entry[key]`` as float64 of `shape`. Raises InputError where it is anything else or not finite."""
    value = field(entry, key, what, file)
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if array.shape != shape or not np.isfinite(array).all():
        form = " x ".join(map(str, shape)) + " finite numbers" if shape else "one finite number"
        raise InputError(f"{file}: '{key}' of {what} must be {form}; correct it")
    return array


def _not_coco(file: Path, content: Any, part: str) -> str:
    if isinstance(content, list):
        return f"{file} is a list, not COCO's form; for MPII's annot files set data.name=mpii"
    return f"{file} is not in COCO's form, since it has no list '{part}'; set data.annotations"


def _person_category(categories: Sequence[Any], file: Path) -> dict[str, Any]:
    """The one category that lists keypoints, or of several the one named person."""
    with_joints = [c for c in categories if isinstance(c, dict) and isinstance(c.get("keypoints"), list)]
    if len(with_joints) > 1:
        with_joints = [c for c in with_joints if str(c.get("name")).lower() == "person"]
    if len(with_joints) != 1:
        raise InputError(
            f"{file} must have one category 'person' that lists its keypoints' names; set data.annotations "
            "to a person-keypoint file"
        )
    return with_joints[0]


def _plain(names: Sequence[Any]) -> list[str]:
    """Joint names without the differences that do not matter: upper case, spaces for underscores."""
    return [str(name).strip().lower().replace(" ", "_") for name in names]


def _check_joints(names: Sequence[Any], skeleton: Skeleton, file: Path) -> None:
    """Raise InputError where a file's joints are not, in this order, the skeleton's."""
    given, wanted = _plain(names), _plain(skeleton.joints)
    if given == wanted:
        return
    known = [s.name for s in SKELETONS.values() if _plain(s.joints) == given]
    if len(given) != len(wanted):
        difference = f"has {len(given)} joints where skeleton '{skeleton.name}' has {len(wanted)}"
    else:
        at = next(i for i in range(len(given)) if given[i] != wanted[i])
        difference = (
            f"has {len(given)} joints in another order or by other names than skeleton '{skeleton.name}' "
            f"(joint {at + 1} is {given[at]}, not {wanted[at]})"
        )
    if known:
        remedy = f"set data.skeleton={known[0]}"
    else:
        remedy = "describe its joints as a Skeleton and set data.skeleton=package.module:SKELETON"
    raise InputError(f"{file} {difference}; {remedy}")


def _person_keypoints(annotation: Any, skeleton: Skeleton, what: str, file: Path) -> np.ndarray:
    """(K, 3) x, y, v."""
    values = field(annotation, "keypoints", what, file)
    wanted = 3 * len(skeleton)
    if not isinstance(values, list) or len(values) != wanted:
        length = len(values) if isinstance(values, list) else "no"
        raise InputError(
            f"{file}: {what} has {length} keypoint numbers, not {wanted} (x, y, v of {len(skeleton)} "
            "joints); correct or remove it"
        )
    points = numbers(annotation, "keypoints", (wanted,), what, file).reshape(-1, 3)
    if not np.isin(points[:, 2], (0, 1, 2)).all():
        raise InputError(f"{file}: {what} has a visibility other than 0, 1 and 2; correct it")
    return points


def _id(entry: Any, key: str, what: str, file: Path) -> int:
    """``entry[key]``. Raises InputError where it is no whole number."""
    value = field(entry, key, what, file)
    if not isinstance(value, int):
        raise InputError(f"{file}: '{key}' of {what} is {value!r}, but ids must be whole numbers; renumber them")
    return value
