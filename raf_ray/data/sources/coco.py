"""People from a file in COCO's person-keypoint form, of COCO itself or any set with a known list of joints.

Form and official layout: cocodataset.org (Lin et al. 2014). Who is left out follows the official top-down
tools (HRNet, MMPose): crowd regions, people without a labelled joint, people without a valid box.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raf_ray.data.annotations.boxes import check_boxes
from raf_ray.data.annotations.coco_entries import (
    check_joints,
    person_category,
    picture_name,
    read_annotated,
    read_images,
)
from raf_ray.data.annotations.fields import check_pixels
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
    people = coco_people(annotations, pictures, asked.skeleton)
    check_boxes(people, str(annotations))
    return people


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
    write it), AREA_OF_BOX of the box stands in. `person_id` and `picture_id` are the file's ids. Of
    images that no person uses, only the ids are looked at.

    Raises InputError, in one sentence, for a file or folder that is missing, a file that is not in COCO's
    form, joints that are not the skeleton's, entries that contradict each other, values that their field cannot
    have (see `raf_ray.data.annotations.fields`), coordinates that are no pixels, and a file without usable people.
    """
    content = read_annotations(annotation_file)
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise InputError(_not_coco(annotation_file, content, part))
    check_picture_folder(picture_folder)
    category_id, joints = person_category(content["categories"], annotation_file)
    check_joints(joints, skeleton, annotation_file)
    images = read_images(content["images"], annotation_file)
    found = read_annotated(content["annotations"], category_id, images, skeleton, annotation_file)
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
        ),
        ignored=Ignored(
            picture_id=np.array([entry[0] for entry in found.ignored], np.int64),
            box_xywh=np.array([entry[1] for entry in found.ignored], np.float64).reshape(-1, 4),
            area=np.array([entry[2] for entry in found.ignored], np.float64),
            crowd=np.array([entry[3] for entry in found.ignored], bool),
        ),
    )


def existing_root(root: str | Path) -> Path:
    """The data set's folder. Raises InputError where there is none."""
    return existing_folder(root, "data.root", "set data.root to the data set's folder").absolute()


def read_annotations(file: Path) -> Any:
    """The content of an annotation file. Raises InputError; see `raf_ray.files.read_json`."""
    return read_json(file, "annotation file", "set data.root, or data.annotations to a file below it")


def _not_coco(file: Path, content: object, part: str) -> str:
    if isinstance(content, list):
        return f"{file} is a list, not COCO's form; for MPII's annot files set data.name=mpii"
    return f"{file} is not in COCO's form, since it has no list '{part}'; set data.annotations"
