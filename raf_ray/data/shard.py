"""One tier's people: patches that hold no finer pixels than the tier, with margins for the augmentation.

The tier is honest: a patch is cut from the picture at the tier's pixel density *before* augmentation, so a
zoom never shows finer pixels. Where the person is larger than the size, the picture is reduced by area to
(just under) that density; where smaller, the picture's own pixels are kept and the person counts as upsampled.
A patch lies the same whether it was cut from a picture a moment ago or stored by ``raf_ray.prepare``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from raf_ray.data.boxes import box_fault
from raf_ray.data.people import People, PictureError
from raf_ray.data.skeletons import Skeleton
from raf_ray.resolution import Size

PADDING = 1.25
"""A person's box is widened by this factor before it is cropped (MMPose's top-down convention)."""

MOST_PADDING = 8
"""Pictures' areas up to which a region is filled up with black in memory, a choice: more than augmentation asks of
a person as large as their picture."""

FARTHEST = 2.0**40
"""Picture pixels at which coordinates end, so that a box at any distance gives whole numbers."""

ReadPatch = Callable[[int], np.ndarray]
"""Index -> (h, w, 3) uint8 RGB patch; raises PictureError."""


@dataclass(frozen=True)
class Margins:
    """How far augmentation can reach beyond a box: factors of its width and height, both >= 1."""

    width: float = 1.0
    height: float = 1.0

    @classmethod
    def covering(cls, rotation: float, scale: float, aspect: float) -> Margins:
        """Margins for rotations up to `rotation` degrees and a box `scale` times as large; aspect = W / H."""
        turn = math.radians(rotation)
        return cls(
            width=scale * (math.cos(turn) + math.sin(turn) / aspect),
            height=scale * (math.cos(turn) + math.sin(turn) * aspect),
        )

    def cover(self, other: Margins) -> bool:
        return self.width >= other.width - 1e-6 and self.height >= other.height - 1e-6


@dataclass(frozen=True)
class Shard:
    """N people at one tier. Joints, centres and boxes are in their own patch's pixels (pixel centres integer)."""

    size: Size
    skeleton: Skeleton
    joints: np.ndarray
    """(N, K, 2) float32"""
    visibility: np.ndarray
    """(N, K) uint8"""
    centre: np.ndarray
    """(N, 2) float32, centre of the person's padded box"""
    scale: np.ndarray
    """(N, 2) float32, pixels of an unaugmented crop per pixel of the patch, x and y"""
    picture_scale: np.ndarray
    """(N, 2) float32, patch pixels per picture pixel, x and y"""
    picture_offset: np.ndarray
    """(N, 2) float32, picture coordinates of the patch's upper left corner pixel's outer corner"""
    area: np.ndarray
    """(N,) float32, segment area in picture pixels squared"""
    person_id: np.ndarray
    """(N,) int64"""
    upsampled: np.ndarray
    """(N,) bool: the person is smaller in the picture than the tier"""
    margins: Margins
    read: ReadPatch
    cache_mb: float = 0.0
    """Patches are kept in memory up to this many MB, the others are cut again when asked for."""
    _cache: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _cached_bytes: list[int] = field(default_factory=lambda: [0], repr=False)

    def __len__(self) -> int:
        return len(self.joints)

    def patch(self, index: int) -> np.ndarray:
        """(h, w, 3) uint8 RGB patch of person `index`."""
        if index in self._cache:
            return self._cache[index]
        patch = self.read(index)
        if self._cached_bytes[0] + patch.nbytes <= self.cache_mb * 2**20:
            self._cache[index] = patch
            self._cached_bytes[0] += patch.nbytes
        return patch

    def to_crop(self, index: np.ndarray) -> np.ndarray:
        """(n, 2, 3) float64 affine maps from patches to unaugmented crops of the tier's size."""
        scale = self.scale[index].astype(np.float64)
        middle = np.array([(self.size.width - 1) / 2, (self.size.height - 1) / 2])
        maps = np.zeros((len(scale), 2, 3))
        maps[:, 0, 0], maps[:, 1, 1] = scale[:, 0], scale[:, 1]
        maps[:, :, 2] = middle - scale * self.centre[index]
        return maps

    def crop_to_picture(self, points: np.ndarray) -> np.ndarray:
        """(N, K, 2) points in unaugmented crops -> the same points in picture pixels."""
        middle = np.array([(self.size.width - 1) / 2, (self.size.height - 1) / 2])
        patch = (points - middle) / self.scale[:, None] + self.centre[:, None]
        return (patch + 0.5) / self.picture_scale[:, None] + self.picture_offset[:, None]


@dataclass(frozen=True)
class Geometry:
    """Where patches lie in their pictures: integer regions and the patches' sizes."""

    start: np.ndarray
    """(N, 2) int64, first picture pixel of the region, x and y (may be negative: filled with black)"""
    extent: np.ndarray
    """(N, 2) int64, the region's width and height in picture pixels"""
    patch: np.ndarray
    """(N, 2) int64, the patch's width and height in pixels"""
    box: np.ndarray
    """(N, 2) float64, padded box of the tier's aspect ratio, in picture pixels"""
    upsampled: np.ndarray
    """(N,) bool"""


def padded_boxes(box: np.ndarray, aspect: float) -> np.ndarray:
    """(N, 2) widths and heights -> boxes of ratio `aspect` = W / H that hold them, PADDING times as large.

    A box of less than a pixel counts as a pixel wide.
    """
    width = np.maximum(np.maximum(box[:, 0].astype(np.float64), box[:, 1] * aspect), 1.0)
    return np.stack([width, width / aspect], axis=1) * PADDING


def lay_patches(people: People, size: Size, margins: Margins) -> Geometry:
    """Place each person's patch so that its density is at most the tier's. No picture is read."""
    box = padded_boxes(people.box, size.aspect)
    density = size.height / box[:, 1]
    reduce = np.minimum(density, 1.0)[:, None]
    reach = 0.5 * box * (margins.width, margins.height) + 2 / reduce
    start = np.floor(np.clip(people.centre - reach, -FARTHEST, FARTHEST)).astype(np.int64)
    extent = np.ceil(np.clip(people.centre + reach, -FARTHEST, FARTHEST)).astype(np.int64) + 1 - start
    patch = np.maximum(np.floor(extent * reduce + 1e-9).astype(np.int64), 1)
    return Geometry(start, extent, patch, box, upsampled=density > 1)


def cut_patch(picture: np.ndarray, start: np.ndarray, extent: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """Cut a region (black beyond the picture) and reduce it by area to the patch's (width, height).

    The cost is that of the picture, whatever the region.
    """
    (x, y), (width, height) = start.tolist(), extent.tolist()
    top, left = max(0, -y), max(0, -x)
    inside = picture[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)]
    if width * height > MOST_PADDING * picture.shape[0] * picture.shape[1]:
        return _average(inside, (left, top), extent, patch)
    bottom, right = height - top - inside.shape[0], width - left - inside.shape[1]
    if top or left or bottom or right:
        region = np.zeros((height, width, 3), np.uint8)
        region[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        inside = region
    if (width, height) == tuple(patch.tolist()):
        return np.ascontiguousarray(inside)
    return cv2.resize(inside, tuple(patch.tolist()), interpolation=cv2.INTER_AREA)


def _average(inside: np.ndarray, corner: tuple[int, int], extent: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """What `cut_patch` gives, to rounding, without the black around `inside`, whose `corner` (x, y) is the region's."""
    (columns, across), (rows, down) = (
        _shares(first, count, whole, parts)
        for first, count, whole, parts in zip(corner, inside.shape[1::-1], extent.tolist(), patch.tolist(), strict=True)
    )
    made = np.zeros((patch[1], patch[0], 3), np.uint8)
    reduced = np.einsum("ih,hwc->iwc", down, inside.astype(np.float32), optimize=True)
    reduced = np.einsum("jw,iwc->ijc", across, reduced, optimize=True)
    made[rows, columns] = np.rint(reduced)
    return made


def _shares(first: int, count: int, whole: int, parts: int) -> tuple[slice, np.ndarray]:
    """Along one axis of `whole` pixels in `parts` cells: the cells that `count` pixels from `first` lie in, and
    (cells, count) float32, each pixel's share of each cell."""
    step = whole / parts
    cells = slice(int(first / step), min(int((first + count) / step) + 1, parts))
    start = np.arange(cells.start, cells.stop)[:, None] * step
    pixel = first + np.arange(count)
    overlap = np.minimum(start + step, pixel + 1) - np.maximum(start, pixel)
    return cells, (np.maximum(overlap, 0) / step).astype(np.float32)


def cut_shard(people: People, size: Size, margins: Margins, cache_mb: float = 0.0) -> Shard:
    """One tier's shard of `people`; pictures are read when their patch is first asked for.

    A box that lies outside its picture gives a black patch, one more than MOST_TIMES its picture a PictureError.
    """
    lay = lay_patches(people, size, margins)
    picture_scale = lay.patch / lay.extent
    offset = lay.start - 0.5

    def to_patch(points: np.ndarray, scale: np.ndarray, corner: np.ndarray) -> np.ndarray:
        return (points - corner) * scale - 0.5

    def read(index: int) -> np.ndarray:
        picture = people.picture(index)
        height, width = picture.shape[:2]
        fault = box_fault(people.box[index], (width, height))
        if fault:
            raise PictureError(f"person {people.person_id[index]} has {fault} ({people.picture_name(index)})")
        return cut_patch(picture, lay.start[index], lay.extent[index], lay.patch[index])

    return Shard(
        size=size,
        skeleton=people.skeleton,
        joints=to_patch(people.joints, picture_scale[:, None], offset[:, None]).astype(np.float32),
        visibility=people.visibility,
        centre=to_patch(people.centre, picture_scale, offset).astype(np.float32),
        scale=((size.width, size.height) / (lay.box * picture_scale)).astype(np.float32),
        picture_scale=picture_scale.astype(np.float32),
        picture_offset=offset.astype(np.float32),
        area=people.area,
        person_id=people.person_id,
        upsampled=lay.upsampled,
        margins=margins,
        read=read,
        cache_mb=cache_mb,
    )
