"""People as a source gives them: labels as arrays in picture coordinates, pictures read one by one when asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

from raf_ray.data.skeletons import Skeleton
from raf_ray.errors import InputError, RunError

PERSON = 1
"""COCO's category of people"""

ReadPicture = Callable[[int], np.ndarray]
"""Source row -> (H, W, 3) uint8 RGB picture; raises PictureError where it is missing or cannot be decoded."""


class PictureError(RunError):
    """A picture is missing or cannot be decoded; the message names it."""


@dataclass(frozen=True)
class Ignored:
    """M regions of pictures where COCO forgives a wrong detection: crowds, and people without a labelled joint."""

    picture_id: np.ndarray
    """(M,) int64"""
    box_xywh: np.ndarray
    """(M, 4) float64, continuous: x, y, width, height"""
    area: np.ndarray
    """(M,) float64"""
    crowd: np.ndarray
    """(M,) bool"""


@dataclass(frozen=True)
class People:
    """N people with K joints. Coordinates are pixel indices: the centre of the first pixel is (0, 0)."""

    skeleton: Skeleton
    joints: np.ndarray
    """(N, K, 2) float32, x and y in picture pixels."""
    visibility: np.ndarray
    """(N, K) uint8, COCO's: 0 not labelled, 1 labelled but hidden, 2 visible."""
    centre: np.ndarray
    """(N, 2) float32, centre of the person's box."""
    box: np.ndarray
    """(N, 2) float32, width and height of the person's box in picture pixels, before padding."""
    area: np.ndarray
    """(N,) float32, area of the person's segment in picture pixels squared, for OKS."""
    head_size: np.ndarray
    """(N,) float32, 0.6 x the head box's diagonal in picture pixels (MPII); NaN where there is no head box."""
    person_id: np.ndarray
    """(N,) int64, the source's own id of the person."""
    picture_id: np.ndarray
    """(N,) int64, the source's own id of the picture."""
    rows: np.ndarray
    """(N,) int64, the row that `read` understands."""
    read: ReadPicture
    ignored: Ignored | None = None
    """Of the whole source, for OKS AP; None: nothing is ignored."""
    category_id: int = PERSON
    """What they are, by the number that their source gives it: of detections in COCO's form."""

    def __len__(self) -> int:
        return len(self.joints)

    def picture(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB picture of person `index`."""
        return self.read(int(self.rows[index]))

    def picture_name(self, index: int) -> str:
        """How messages name the picture of person `index`: its file, or its id where the source names none."""
        name = getattr(self.read, "name", None)
        return str(name(int(self.rows[index]))) if callable(name) else f"picture {self.picture_id[index]}"

    def take(self, index: np.ndarray) -> People:
        """The people at `index` (an index array or a boolean mask), in that order."""
        arrays = {
            f.name: getattr(self, f.name)[index] for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)
        }
        return replace(self, **arrays)


def check_numbers(people: People, what: str) -> People:
    """The same people, where joints that are not labelled and lie nowhere (NaN, infinite) are put at (0, 0).

    Raises InputError, naming `what` and a person, where a labelled joint or a box is not finite, or a box is empty.
    """
    finite = np.isfinite(people.joints).all(axis=2)
    lost = (~finite & (people.visibility > 0)).any(axis=1)
    if lost.any():
        person = people.person_id[np.flatnonzero(lost)[0]]
        raise InputError(f"{what}: a labelled joint of person {person} is not at finite coordinates; correct it")
    boxed = np.isfinite(people.centre).all(axis=1) & np.isfinite(people.box).all(axis=1) & (people.box > 0).all(axis=1)
    if not boxed.all():
        person = people.person_id[np.flatnonzero(~boxed)[0]]
        raise InputError(f"{what}: the box of person {person} must have a finite centre and sides above 0; correct it")
    return people if finite.all() else replace(people, joints=np.where(finite[:, :, None], people.joints, 0))
