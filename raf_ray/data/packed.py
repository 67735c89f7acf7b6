"""A shard as a few arrays, all patches in one buffer: what processes of a machine share without a copy each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from raf_ray.data.crop import Margins
from raf_ray.data.people import PictureError
from raf_ray.data.shard import Shard
from raf_ray.data.skeletons import Skeleton
from raf_ray.resolution import Size

ARRAYS = (
    "joints",
    "visibility",
    "centre",
    "scale",
    "picture_scale",
    "picture_offset",
    "area",
    "person_id",
    "upsampled",
)


@dataclass(frozen=True)
class PackedShard:
    """N people at one tier. Pickled with protocol 5 its buffers are neither copied nor, from Ray's store, owned."""

    size: Size
    skeleton: Skeleton
    margins: Margins
    arrays: dict[str, Any]
    """The label arrays of `Shard` by name."""
    pixels: np.ndarray
    """(total,) uint8, the patches one after the other"""
    start: np.ndarray
    """(N + 1,) int64, where each patch begins in `pixels`"""
    shape: np.ndarray
    """(N, 2) int64, height and width of each patch"""
    bad: dict[int, str]
    """Person -> why their picture cannot be read."""

    def unpack(self, cache_mb: float) -> Shard:
        """The shard; its patches are views of `pixels`. `cache_mb` is for crops that are made from them."""
        read = partial(_read, self)
        return Shard(self.size, self.skeleton, margins=self.margins, read=read, cache_mb=cache_mb, **self.arrays)


def pack(shard: Shard, on_bad_image: Literal["stop", "skip"]) -> PackedShard:
    """Read all patches of a shard. Raises PictureError where one cannot be read and `on_bad_image` is stop."""
    patches, bad = [], {}
    for index in range(len(shard)):
        try:
            patches.append(shard.read(index))
        except PictureError as error:
            if on_bad_image == "stop":
                raise
            bad[index] = str(error)
            patches.append(np.zeros((0, 0, 3), np.uint8))
    sizes = np.array([patch.size for patch in patches], np.int64)
    return PackedShard(
        size=shard.size,
        skeleton=shard.skeleton,
        margins=shard.margins,
        arrays={name: getattr(shard, name) for name in ARRAYS},
        pixels=np.concatenate([patch.reshape(-1) for patch in patches]),
        start=np.concatenate([[0], np.cumsum(sizes)]),
        shape=np.array([patch.shape[:2] for patch in patches], np.int64),
        bad=bad,
    )


def _read(packed: PackedShard, index: int) -> np.ndarray:
    if index in packed.bad:
        raise PictureError(packed.bad[index])
    height, width = packed.shape[index].tolist()
    return packed.pixels[packed.start[index] : packed.start[index + 1]].reshape(height, width, 3)
