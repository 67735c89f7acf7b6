"""The tier's rule: where a person's patch lies in their picture, and how it is cut from it.

The tier is honest: a patch is cut from the picture at the tier's pixel density *before* augmentation, so a
zoom never shows finer pixels. Where the person is larger than the size, the picture is reduced by area to
(just under) that density; where smaller, the picture's own pixels are kept and the person counts as upsampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from raf_ray.data.people import People
from raf_ray.resolution import Size

PADDING = 1.25
"""A person's box is widened by this factor before it is cropped (MMPose's top-down convention)."""


MOST_PADDING = 8
"""Pictures' areas up to which a region is filled up with black in memory, a choice: more than augmentation asks of
a person as large as their picture."""


FARTHEST = 2.0**40
"""Picture pixels at which coordinates end, so that a box at any distance gives whole numbers."""


@dataclass(frozen=True)
class Margins:
    """How far augmentation can reach beyond a box: factors of its width and height, both >= 1."""

    width: float = 1.0
    height: float = 1.0

    @classmethod
    def covering(cls, rotation: float, scale: float, aspect: float) -> Margins:
        """Margins for rotations up to `rotation` degrees and a box `scale` times as large; aspect = W / H."""

        def reach(ratio: float) -> float:
            turn = min(math.radians(rotation), math.atan(ratio))  # where it reaches farthest
            return scale * (math.cos(turn) + math.sin(turn) * ratio)

        return cls(width=reach(1 / aspect), height=reach(aspect))

    def cover(self, other: Margins) -> bool:
        return self.width >= other.width - 1e-6 and self.height >= other.height - 1e-6


@dataclass(frozen=True)
class CropRule:
    """How a person's box becomes a crop."""

    stretch: bool = False
    """A square of the person's scale is squeezed into the size, as the RAF authors do; else a box of its ratio."""
    inner: bool = False
    """The box is spanned by the W - 1 steps between pixel centres (UDP, Huang et al. 2020); else by W pixels."""
    reduced: bool = True
    """Patches hold no finer pixels than the tier; else the picture's own, and crops are warped from those."""

    def aspect(self, size: Size) -> float:
        """Width / height of the boxes."""
        return 1.0 if self.stretch else size.aspect

    def span(self, size: Size) -> tuple[int, int]:
        """What of a crop the box spans, in crop pixels, x and y."""
        return size.width - self.inner, size.height - self.inner

    def squeeze(self, size: Size) -> float:
        """Crop pixels per picture pixel along x, divided by those along y."""
        if not (self.stretch or self.inner):
            return 1.0
        width, height = self.span(size)
        return width / height / self.aspect(size)


OURS = CropRule()


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


def lay_patches(people: People, size: Size, margins: Margins, rule: CropRule = OURS) -> Geometry:
    """Place each person's patch so that its density is at most the tier's. No picture is read."""
    box = padded_boxes(people.box, rule.aspect(size))
    density = (size.width, size.height) / box if rule.stretch else (size.height / box[:, 1])[:, None]
    reduce = np.minimum(density, 1.0) if rule.reduced else np.ones_like(density)
    reach = 0.5 * box * (margins.width, margins.height) + 2 / reduce
    start = np.floor(np.clip(people.centre - reach, -FARTHEST, FARTHEST)).astype(np.int64)
    extent = np.ceil(np.clip(people.centre + reach, -FARTHEST, FARTHEST)).astype(np.int64) + 1 - start
    patch = np.maximum(np.floor(extent * reduce + 1e-9).astype(np.int64), 1)
    return Geometry(start, extent, patch, box, upsampled=np.any(density > 1, axis=1))


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
