"""People from MPII in the form of HRNet's json lists (Andriluka et al. 2014; Sun et al. 2019).

An entry is one person: ``image``, ``center``, ``scale`` (person height / 200 px), ``joints`` (16, 2) and
``joints_vis`` (16,), in MATLAB's coordinates: the first pixel's centre is (1, 1).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from raf_ray.data.coco import AREA_OF_BOX, FileSplit, existing_root, field, numbers, read_annotations
from raf_ray.data.people import People
from raf_ray.data.pictures import PictureFiles, check_picture_folder
from raf_ray.data.skeletons import MPII16
from raf_ray.errors import InputError

OFFICIAL: dict[FileSplit, str] = {"train": "train", "test": "valid"}
"""HRNet's split of the people with public labels; MPII's own test people have none."""

BOX_SIDE = 200.0
"""Side in pixels of the square box of a person of scale 1 (MPII)."""

CENTRE_SHIFT = 15.0
"""Pixels of scale 1 by which HRNet moves a centre down, "to avoid cropping limbs". It also enlarges the
scale by 1.25, which is the crop's own PADDING here."""

HEAD_SHARE = 0.6
"""PCKh's head size as a share of the head box's diagonal (SC_BIAS of MPII's evaluation)."""

SAME_PLACE = 10.0
"""Median distance in pixels beyond which a head-box file's joints are taken for those of other people; a
choice, far above the one pixel that conventions differ by and far below the distance between two people."""


def mpii_files(
    root: str | Path,
    annotations: Mapping[FileSplit, str] | None,
    images: Mapping[FileSplit, str] | None,
    split: FileSplit,
) -> tuple[Path, Path, Path | None]:
    """Annotation file, picture folder and head-box file of a split (None where there is none).

    `annotations` and `images` (relative to `root`, by split) replace HRNet's layout. Head boxes of
    ``NAME.json`` are in ``gt_NAME.mat`` beside it, as HRNet has it for valid. Raises InputError where
    `root` is no folder.
    """
    folder = existing_root(root)
    annotation = folder / (annotations or {}).get(split, f"annot/{OFFICIAL[split]}.json")
    pictures = folder / (images or {}).get(split, "images")
    head_boxes = annotation.with_name(f"gt_{annotation.stem}.mat")
    return annotation, pictures, head_boxes if head_boxes.is_file() else None


def mpii_people(annotation_file: Path, picture_folder: Path, head_boxes: Path | None) -> People:
    """The people of an HRNet-style json list, in its order, moved to 0-based coordinates.

    The box is the square of 200 * scale pixels around the centre, which is first moved down as HRNet does
    (not where it is -1, MPII's "unknown"). `area` is AREA_OF_BOX of that square, a choice: MPII has no
    segments, and an OKS on it is no official number (a square is wider than a person, so it is lenient).
    `person_id` is the entry's place in the list and `picture_id` the picture's place among the list's
    sorted file names. Entries without a labelled joint or with a scale that is not positive are left out.

    Raises InputError, in one sentence, for a file or folder that is missing, a list in another form, head
    boxes that are not those of the list, and a list without usable people.
    """
    entries = read_annotations(annotation_file)
    if not isinstance(entries, list):
        raise InputError(
            f"{annotation_file} is not a list of people, as MPII's annot files are; for a file in COCO's "
            "form set data.name=coco"
        )
    check_picture_folder(picture_folder)
    count = len(entries)
    k = len(MPII16)
    names: list[str] = []
    joints = np.zeros((count, k, 2))
    labelled = np.zeros((count, k), bool)
    centre, scale = np.zeros((count, 2)), np.zeros(count)
    for i, entry in enumerate(entries):
        what = f"entry {i}"
        names.append(str(field(entry, "image", what, annotation_file)))
        joints[i] = numbers(entry, "joints", (k, 2), what, annotation_file)
        labelled[i] = numbers(entry, "joints_vis", (k,), what, annotation_file) > 0
        centre[i] = numbers(entry, "center", (2,), what, annotation_file)
        scale[i] = numbers(entry, "scale", (), what, annotation_file)
    if head_boxes is None:
        head_size = np.full(count, np.nan)
    else:
        head_size = read_head_sizes(head_boxes, annotation_file, joints, labelled)

    keep = np.flatnonzero(labelled.any(axis=1) & (scale > 0))
    if len(keep) == 0:
        raise InputError(
            f"{annotation_file} holds no person to use ({count} entries, none with a labelled joint and a "
            "scale); set data.annotations"
        )
    centre[:, 1] += np.where(centre[:, 0] == -1, 0.0, CENTRE_SHIFT * scale)
    side = BOX_SIDE * scale[keep]
    used, rows = np.unique(np.array(names), return_inverse=True)
    return People(
        skeleton=MPII16,
        joints=(joints[keep] - 1).astype(np.float32),
        visibility=np.where(labelled[keep], 2, 0).astype(np.uint8),
        centre=(centre[keep] - 1).astype(np.float32),
        box=np.stack([side, side], axis=1).astype(np.float32),
        area=(AREA_OF_BOX * side**2).astype(np.float32),
        head_size=head_size[keep].astype(np.float32),
        person_id=keep.astype(np.int64),
        picture_id=rows[keep].astype(np.int64),
        rows=rows[keep].astype(np.int64),
        read=PictureFiles(tuple(str(picture_folder / name) for name in used.tolist()), str(annotation_file)),
    )


def read_head_sizes(head_boxes: Path, annotation_file: Path, joints: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """(N,) head sizes in pixels, from HRNet's ``gt_valid.mat``, in the order of the annotation file.

    `joints` (N, 16, 2) and `labelled` (N, 16) are the list's; where the file holds ``pos_gt_src`` (16, 2,
    N) they must lie in the same places. Raises InputError where the file cannot be read or is not of these
    people.
    """
    if not head_boxes.is_file():
        raise InputError(f"head-box file {head_boxes} does not exist; remove it from the request or fetch it")
    try:
        content = loadmat(head_boxes)
    except (OSError, ValueError, TypeError, NotImplementedError, EOFError, zlib.error, MatReadError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"head-box file {head_boxes} cannot be read as a MATLAB file: {reason}") from error
    corners = content.get("headboxes_src")
    if corners is None or corners.ndim != 3 or corners.shape[:2] != (2, 2):
        raise InputError(f"head-box file {head_boxes} has no 'headboxes_src' of 2 x 2 x people; fetch HRNet's")
    if corners.shape[2] != len(joints):
        raise InputError(
            f"head-box file {head_boxes} is of {corners.shape[2]} people, but {annotation_file} has "
            f"{len(joints)}; use the two files of one split, or remove the former"
        )
    places = content.get("pos_gt_src")
    if places is not None and places.shape == (joints.shape[1], 2, len(joints)) and labelled.any():
        distance = np.linalg.norm(places.astype(np.float64).transpose(2, 0, 1) - joints, axis=2)[labelled]
        if np.median(distance) > SAME_PLACE:
            raise InputError(
                f"head-box file {head_boxes} has its people in other places or another order than "
                f"{annotation_file}; use the two files of one split"
            )
    diagonal = np.linalg.norm(corners[1].astype(np.float64) - corners[0].astype(np.float64), axis=0)
    return np.asarray(HEAD_SHARE * diagonal)
