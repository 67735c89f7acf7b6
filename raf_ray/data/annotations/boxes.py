"""Boxes that cannot be of a person in their picture: found before the start where labels show it, else when cut."""

from __future__ import annotations

import numpy as np

from raf_ray.data.people import People
from raf_ray.data.pictures import PictureFiles
from raf_ray.errors import InputError

MOST_TIMES = 10.0
"""A side more than so many times its picture's is a wrong unit and no person; a choice, far above the boxes of
people who are cut off by the picture's edge."""

LEAST_EXTENT = 64.0
"""Pixels that a person's joints are taken to extend at the least, so that few pictures are looked at for nothing."""

FAR = 10_000.0
"""A side in pixels for which the picture is looked at in any case; a choice, above most pictures' own sides."""


def box_fault(box: np.ndarray, size: tuple[int, int]) -> str | None:
    """What is wrong with a box (width, height) in a picture of `size` (width, height), in pixels; None: nothing."""
    if not (box > MOST_TIMES * np.array(size)).any():
        return None
    side, other = (f"{one:.6g} x {two:.6g} px" for one, two in (box, size))
    return f"a box of {side}, more than {MOST_TIMES:g} times its picture of {other}"


def check_boxes(people: People, source: str, hint: str = "correct or remove it") -> None:
    """Raise InputError for the first person whose box is no box, or more than MOST_TIMES their picture.

    A picture's size is its header's (or that of the picture, where a source of one's own reads it), else what the
    annotation file says. It is looked at only where a box is large against the person's joints, FAR in any case, or
    too large for the size that the file gives: joints in the picture make a box no larger than the picture suspect.

    Args:
        source: names the annotation file, or where else the people are from.
        hint: what to do.
    """
    box = people.box.astype(np.float64)
    good = np.isfinite(box).all(axis=1) & (box > 0).all(axis=1) & np.isfinite(people.centre).all(axis=1)
    if not good.all():
        i = int(np.argmin(good))
        raise InputError(
            f"{source}: person {people.person_id[i]} has a box of {box[i, 0]:g} x {box[i, 1]:g} px around "
            f"({people.centre[i, 0]:g}, {people.centre[i, 1]:g}); sides must be numbers above 0; {hint}"
        )
    for i in np.flatnonzero(_suspicious(people, box)).tolist():
        size = _picture_size(people, i)
        fault = None if size is None else box_fault(box[i], size)
        if fault:
            raise InputError(f"{source}: person {people.person_id[i]} has {fault} ({people.picture_name(i)}); {hint}")


def _suspicious(people: People, box: np.ndarray) -> np.ndarray:
    """(N,) bool: whose picture's size is worth knowing."""
    labelled = (people.visibility > 0)[..., None]
    low = np.where(labelled, people.joints, np.inf).min(axis=1)
    high = np.where(labelled, people.joints, -np.inf).max(axis=1)
    extent = np.fmax(high.astype(np.float64) - low, LEAST_EXTENT)
    found: np.ndarray = ((box > MOST_TIMES * extent) | (box > FAR)).any(axis=1)
    files = people.read
    if isinstance(files, PictureFiles) and files.sizes is not None:
        given = files.sizes[people.rows]
        found |= ((box > MOST_TIMES * given) & (given > 0)).any(axis=1)
    return found


def _picture_size(people: People, index: int) -> tuple[int, int] | None:
    """Width and height; None where the picture cannot be read, which is said when it is needed."""
    row = int(people.rows[index])
    try:
        if isinstance(people.read, PictureFiles):
            return people.read.size(row)
        height, width = people.picture(index).shape[:2]
        return width, height
    except Exception:  # PictureError, or whatever a reader of one's own raises
        return people.read.given_size(row) if isinstance(people.read, PictureFiles) else None
