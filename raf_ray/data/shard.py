"""One tier's people: patches that hold no finer pixels than the tier, with margins for the augmentation.

The tier is honest: a patch is cut from the picture at the tier's pixel density *before* augmentation, so a
zoom never shows finer pixels. Where the person is larger than the size, the picture is reduced by area to
(just under) that density; where smaller, the picture's own pixels are kept and the person counts as upsampled.
A patch lies the same whether it was cut from a picture a moment ago or stored by ``raf_ray.prepare``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from raf_ray.data.annotations.boxes import box_fault
from raf_ray.data.crop import OURS, CropRule, Margins, cut_patch, lay_patches
from raf_ray.data.people import People, PictureError
from raf_ray.data.skeletons import Skeleton
from raf_ray.resolution import Size

ReadPatch = Callable[[int], np.ndarray]
"""Index -> (h, w, 3) uint8 RGB patch; raises PictureError."""


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
    rule: CropRule = OURS
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

    @property
    def cached_bytes(self) -> int:
        return self._cached_bytes[0]

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


def cut_shard(people: People, size: Size, margins: Margins, cache_mb: float = 0.0, *, rule: CropRule = OURS) -> Shard:
    """One tier's shard of `people`; pictures are read when their patch is first asked for.

    A box that lies outside its picture gives a black patch, one more than MOST_TIMES its picture a PictureError.
    """
    lay = lay_patches(people, size, margins, rule)
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
        scale=(rule.span(size) / (lay.box * picture_scale)).astype(np.float32),
        picture_scale=picture_scale.astype(np.float32),
        picture_offset=offset.astype(np.float32),
        area=people.area,
        person_id=people.person_id,
        upsampled=lay.upsampled,
        margins=margins,
        read=read,
        rule=rule,
        cache_mb=cache_mb,
    )
