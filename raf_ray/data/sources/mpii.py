"""People from MPII in the form of HRNet's json lists (Andriluka et al. 2014; Sun et al. 2019).

An entry is one person: ``image``, ``center``, ``scale`` (person height / 200 px), ``joints`` (16, 2) and
``joints_vis`` (16,), in MATLAB's coordinates: the first pixel's centre is (1, 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from raf_ray.data.annotations.boxes import check_boxes
from raf_ray.data.annotations.coco_entries import AREA_OF_BOX
from raf_ray.data.annotations.fields import (
    LARGEST,
    SMALLEST,
    brief,
    check_pixels,
    given,
    number,
    numbers,
    settle_joints,
    shown,
    text,
    warn_once,
)
from raf_ray.data.annotations.forms import not_in_form
from raf_ray.data.people import People
from raf_ray.data.pictures import PictureFiles, check_picture_folder
from raf_ray.data.skeletons import MPII16
from raf_ray.data.sources import Asked, FileSplit
from raf_ray.data.sources.coco import existing_root, read_annotations
from raf_ray.errors import InputError, one_line

NAMES = ("mpii",)

OFFICIAL: dict[FileSplit, str] = {"train": "train", "test": "valid"}
"""HRNet's split of the people with public labels; MPII's own test people have none."""

BOX_SIDE = 200.0
"""Side in pixels of the square box of a person of scale 1 (MPII)."""

CENTRE_SHIFT = 15.0
"""Pixels of scale 1 by which HRNet moves a centre down, "to avoid cropping limbs". It also enlarges the
scale by 1.25, which is the crop's own PADDING here."""

UNKNOWN = -1.0
"""How MPII writes a centre or scale that it does not have."""

HEAD_SHARE = 0.6
"""PCKh's head size as a share of the head box's diagonal (SC_BIAS of MPII's evaluation)."""

SAME_PLACE = 10.0
"""Median distance in pixels beyond which a head-box file's joints are taken for those of other people; a
choice, far above the one pixel that conventions differ by and far below the distance between two people."""


def read(asked: Asked, split: FileSplit) -> People:
    annotations, pictures, heads = mpii_files(asked.root, asked.annotations, asked.images, split)
    people = mpii_people(annotations, pictures, heads)
    check_boxes(people, str(annotations), "an MPII scale is the person's height in pixels / 200; correct it")
    return people


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
    sorted file names. Entries without a labelled joint or of unknown scale (-1, as MPII has it) are left out.

    Raises InputError, in one sentence, for a file or folder that is missing, a list in another form, values
    that their field cannot have (see `raf_ray.data.annotations.fields`), coordinates that are no pixels, head boxes
    that are not those of the list, and a list without usable people.
    """
    entries = read_annotations(annotation_file)
    if not isinstance(entries, list):
        raise InputError(not_in_form(entries, "MPII's lists", annotation_file))
    check_picture_folder(picture_folder)
    names, joints, labelled, centre, scale = _read_entries(entries, annotation_file)
    count = len(names)
    if head_boxes is None:
        head_size = np.full(count, np.nan)
    else:
        head_size = read_head_sizes(head_boxes, annotation_file, joints, labelled)

    someone = labelled.any(axis=1)
    keep = np.flatnonzero(someone & (scale != UNKNOWN))
    unknown = int(someone.sum()) - len(keep)
    if len(keep) == 0:
        raise InputError(
            f"{annotation_file} holds no person to use ({count} entries: {count - unknown} without a labelled joint, "
            f"{unknown} of unknown scale); set data.annotations"
        )
    if unknown:
        warn_once(
            f"{annotation_file}: people with labelled joints left out, since their scale is unknown (-1): {unknown}"
        )
    check_pixels(joints[keep][labelled[keep]], "labelled joints", annotation_file)
    check_pixels(centre[keep], "centres", annotation_file)
    centre[:, 1] += np.where(centre[:, 0] == UNKNOWN, 0.0, CENTRE_SHIFT * scale)
    side = BOX_SIDE * scale[keep]
    used = sorted(set(names))
    row_of = {name: row for row, name in enumerate(used)}
    rows = np.array([row_of[name] for name in names], np.int64)
    return People(
        skeleton=MPII16,
        joints=(joints[keep] - 1).astype(np.float32),
        visibility=np.where(labelled[keep], 2, 0).astype(np.uint8),
        centre=(centre[keep] - 1).astype(np.float32),
        box=np.stack([side, side], axis=1).astype(np.float32),
        area=(AREA_OF_BOX * side**2).astype(np.float32),
        head_size=head_size[keep].astype(np.float32),
        person_id=keep.astype(np.int64),
        picture_id=rows[keep],
        rows=rows[keep],
        read=PictureFiles(tuple(str(picture_folder / name) for name in used), str(annotation_file)),
    )


def _read_entries(entries: list[Any], file: Path) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Picture names, joints (N, K, 2), labelled (N, K), centres (N, 2) and scales (N,), as the list has them.

    Scales of people without a labelled joint stay UNKNOWN, and centres of those without a scale at 0.
    """
    count, k = len(entries), len(MPII16)
    names: list[str] = []
    joints = np.zeros((count, k, 2))
    labelled = np.zeros((count, k), bool)
    centre, scale = np.zeros((count, 2)), np.full(count, UNKNOWN)
    for i, entry in enumerate(entries):
        what = f"entry {i}"
        names.append(text(given(entry, "image", what, file), f"'image' of {what}", file))
        place = given(entry, "joints", what, file)
        joints[i] = numbers(place, (k, 2), f"'joints' of {what}", file, unknown=True)
        labelled[i] = _flags(entry, what, file)
        settle_joints(joints[i], labelled[i], MPII16, f"'joints' of {what}", file)
        if labelled[i].any():
            scale[i] = _scale(entry, what, file)
        if scale[i] != UNKNOWN:
            centre[i] = numbers(given(entry, "center", what, file), (2,), f"'center' of {what}", file)
    return names, joints, labelled, centre, scale


def _flags(entry: Any, what: str, file: Path) -> np.ndarray:
    """(K,) bool, which joints are labelled: those above 0, or true."""
    values = given(entry, "joints_vis", what, file)
    if isinstance(values, list):
        values = [int(one) if isinstance(one, bool) else one for one in values]
    return numbers(values, (len(MPII16),), f"'joints_vis' of {what}", file) > 0


def _scale(entry: Any, what: str, file: Path) -> float:
    scale = number(given(entry, "scale", what, file), f"'scale' of {what}", file)
    if BOX_SIDE * scale < SMALLEST and scale != UNKNOWN:
        raise InputError(
            f"{file}: 'scale' of {what} is {shown(entry['scale'])}, but must be above 0 (the person's height / "
            f"{BOX_SIDE:g} pixels), or {UNKNOWN:g} where it is unknown"
        )
    return scale


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
    except Exception as error:  # scipy raises a different type for every kind of damage
        reason = brief(one_line(error))
        raise InputError(f"head-box file {head_boxes} cannot be read as a MATLAB file: {reason}") from error
    corners = content.get("headboxes_src")
    if corners is None or corners.ndim != 3 or corners.shape[:2] != (2, 2) or not _real(corners):
        raise InputError(f"head-box file {head_boxes} has no 'headboxes_src' of 2 x 2 x people; fetch HRNet's")
    if corners.shape[2] != len(joints):
        raise InputError(
            f"head-box file {head_boxes} is of {corners.shape[2]} people, but {annotation_file} has "
            f"{len(joints)}; use the two files of one split, or remove the former"
        )
    corners = corners.astype(np.float64)
    far = ~(np.abs(corners) <= LARGEST).all(axis=(0, 1))
    if far.any():
        raise InputError(
            f"head-box file {head_boxes}: 'headboxes_src' of person {np.argmax(far)} must be 2 x 2 finite numbers in "
            "the picture's pixels; fetch HRNet's"
        )
    places = content.get("pos_gt_src")
    comparable = places is not None and places.shape == (joints.shape[1], 2, len(joints)) and _real(places)
    if comparable and labelled.any():
        distance = np.linalg.norm(places.astype(np.float64).transpose(2, 0, 1) - joints, axis=2)[labelled]
        if np.median(np.nan_to_num(distance)) > SAME_PLACE:
            raise InputError(
                f"head-box file {head_boxes} has its people in other places or another order than "
                f"{annotation_file}; use the two files of one split"
            )
    diagonal = np.linalg.norm(corners[1] - corners[0], axis=0)
    return np.asarray(HEAD_SHARE * diagonal)


def _real(array: np.ndarray) -> bool:
    """Whether the array is of plain numbers, neither complex nor MATLAB's cells or texts."""
    return array.dtype.kind in "iuf"
