"""People from a file in COCO's person-keypoint form: COCO itself, or an export of CVAT, Roboflow, Label Studio ...
Form and official layout: cocodataset.org (Lin et al. 2014). Who is left out follows the official top-down
tools (HRNet, MMPose): crowd regions, people without a labelled joint, people without a valid box.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raf_ray.data.annotations.boxes import check_boxes
from raf_ray.data.annotations.categories import find_category
from raf_ray.data.annotations.coco_entries import picture_name, read_annotated, read_images
from raf_ray.data.annotations.fields import check_pixels
from raf_ray.data.annotations.forms import not_in_form
from raf_ray.data.annotations.joints import check_joints, own_skeleton
from raf_ray.data.annotations.layouts import find_layout
from raf_ray.data.people import Ignored, People
from raf_ray.data.pictures import PictureFiles, check_picture_folder, sizes_given
from raf_ray.data.skeletons import Skeleton
from raf_ray.data.sources import Asked, FileSplit
from raf_ray.errors import InputError
from raf_ray.files import read_json
from raf_ray.paths import existing_folder

NAMES = ("coco",)

OFFICIAL: dict[FileSplit, str] = {"train": "train2017", "test": "val2017"}
"""COCO's labelled splits; its own test split has no public labels."""


def read(asked: Asked, split: FileSplit) -> People:
    annotations, pictures = coco_files(asked.root, asked.annotations, asked.images, split)
    people = coco_people(annotations, pictures, asked.skeleton, asked.category, keep_others=split == "test")
    check_boxes(people, str(annotations))
    return people


def coco_files(
    root: str | Path,
    annotations: Mapping[FileSplit, str] | None,
    images: Mapping[FileSplit, str] | None,
    split: FileSplit,
) -> tuple[Path, Path]:
    """Annotation file and picture folder of a split.

    `annotations` and `images` (relative to `root`, by split) replace the layout, which is COCO's official one or
    that of a tool (`raf_ray.data.annotations.layouts`). Raises InputError where `root` is no folder.
    """
    folder = existing_root(root)
    found = None if annotations or images else find_layout(folder, split)
    if found is not None:
        return found
    name = OFFICIAL[split]
    annotation = (annotations or {}).get(split, f"annotations/person_keypoints_{name}.json")
    return folder / annotation, folder / (images or {}).get(split, name)


def coco_people(
    annotation_file: Path,
    picture_folder: Path,
    skeleton: Skeleton | None,
    category: str | None = None,
    keep_others: bool = False,
) -> People:
    """Every usable person of a COCO keypoint file, in the file's order; pictures are read when asked for.

    COCO's keypoints are 0-based pixel indices already. Its boxes are continuous, pixel i covering [i, i + 1),
    so a box's centre is moved by half a pixel. Where an area is missing or not positive (as some exporters
    write it), AREA_OF_BOX of the box stands in. `person_id` and `picture_id` are the file's ids. Of
    images that no person uses, only the ids are looked at. `skeleton` None: the joints that the file names
    (`own_skeleton`). `category`: whose annotations, where several categories have joints; see `find_category`.
    `keep_others`: keep the paths of pictures in which nobody is used, for detections.

    Raises InputError, in one sentence, for a file or folder that is missing, a file that is not in COCO's
    form, joints that are not the skeleton's, entries that contradict each other, values that their field cannot
    have (see `raf_ray.data.annotations.fields`), coordinates that are no pixels, and a file without usable people.
    """
    content = _coco_content(annotation_file)
    check_picture_folder(picture_folder)
    found_category = find_category(content, category, annotation_file)
    if skeleton is None:
        skeleton = own_skeleton(found_category.name, found_category.joints, found_category.limbs, annotation_file)
    check_joints(found_category.joints, skeleton, annotation_file)
    images = read_images(content["images"], annotation_file)
    found = read_annotated(content["annotations"], found_category.id, images, skeleton, annotation_file)
    keypoints_nk3, box_xywh = np.stack(found.keypoints), np.stack(found.boxes)
    check_pixels(keypoints_nk3[keypoints_nk3[:, :, 2] > 0][:, :2], "labelled joints", annotation_file)
    check_pixels(box_xywh, "boxes", annotation_file)

    used, rows = np.unique(np.array(found.picture_ids, np.int64), return_inverse=True)
    names = [picture_name(i, images[i], annotation_file) for i in used.tolist()]
    return People(
        skeleton=skeleton,
        joints=keypoints_nk3[:, :, :2].astype(np.float32),
        visibility=keypoints_nk3[:, :, 2].astype(np.uint8),
        centre=(box_xywh[:, :2] + box_xywh[:, 2:] / 2 - 0.5).astype(np.float32),
        box=box_xywh[:, 2:].astype(np.float32),
        area=np.array(found.areas, np.float32),
        head_size=np.full(len(found.areas), np.nan, np.float32),
        person_id=np.array(found.person_ids, np.int64),
        picture_id=used[rows],
        rows=rows.astype(np.int64),
        read=PictureFiles(
            tuple(str(picture_folder / name) for name in names),
            str(annotation_file),
            sizes_given(images[i] for i in used.tolist()),
            _others(images, set(used.tolist()), picture_folder) if keep_others else None,
        ),
        ignored=Ignored(
            picture_id=np.array([entry[0] for entry in found.ignored], np.int64),
            box_xywh=np.array([entry[1] for entry in found.ignored], np.float64).reshape(-1, 4),
            area=np.array([entry[2] for entry in found.ignored], np.float64),
            crowd=np.array([entry[3] for entry in found.ignored], bool),
        ),
        category_id=found_category.id,
    )


def _others(images: Mapping[int, Any], used: set[int], folder: Path) -> dict[int, str]:
    names = {i: image.get("file_name") for i, image in images.items() if i not in used}
    return {i: str(folder / name) for i, name in names.items() if isinstance(name, str) and name.strip()}


def existing_root(root: str | Path) -> Path:
    """The data set's folder. Raises InputError where there is none."""
    return existing_folder(root, "data.root", "set data.root to the data set's folder").absolute()


def read_annotations(file: Path) -> Any:
    """The content of an annotation file. Raises InputError; see `raf_ray.files.read_json`."""
    return read_json(file, "annotation file", "set data.root, or data.annotations to a file below it")


def _coco_content(file: Path) -> dict[str, Any]:
    """The content of a file in COCO's form, whose three lists are there. Raises InputError."""
    content = read_annotations(file)
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise InputError(_not_coco(file, content, part))
    return content


def _not_coco(file: Path, content: object, part: str) -> str:
    if isinstance(content, dict) and len({"images", "annotations", "categories"} & set(content)) > 1:
        return f"{file} is not in COCO's form, since it has no list '{part}'; set data.annotations"
    return not_in_form(content, "COCO's form", file)
