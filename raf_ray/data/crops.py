"""Unaugmented people of a shard: what does not change from epoch to epoch, computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from raf_ray.data.augment import apply
from raf_ray.data.shard import Shard
from raf_ray.data.warp import warp_opencv
from raf_ray.resolution import Size


def weights_of(joints: np.ndarray, labelled: np.ndarray, size: Size) -> np.ndarray:
    """(B, K) bool: of joints (B, K, 2) in crop pixels, those that are labelled (B, K) and inside a crop of `size`."""
    inside: np.ndarray = np.all((joints >= -0.5) & (joints < (size.width - 0.5, size.height - 0.5)), -1)
    return labelled & inside


Counted = Callable[[np.ndarray, np.ndarray, Size], np.ndarray]
"""As `weights_of`: which joints count"""


class PlainCrops:
    """Crops are cut when they are first asked for; the first people's, up to the shard's `cache_mb`, are kept in
    place of their patches."""

    def __init__(self, shard: Shard, counted: Counted = weights_of) -> None:
        self._shard = shard
        self._counted = counted
        size = shard.size
        self._crop_bytes = size.height * size.width * 3
        self._kept = min(len(shard), int(shard.cache_mb * 2**20 // self._crop_bytes))
        self._cut = np.zeros(len(shard), bool)
        """Of the kept: whose crop is there."""

    @cached_property
    def _crops(self) -> np.ndarray:
        """(kept, H, W, 3) uint8; a page of it takes memory when it is first written to."""
        return np.empty((self._kept, self._shard.size.height, self._shard.size.width, 3), np.uint8)

    @property
    def cached_bytes(self) -> int:
        return int(self._cut.sum()) * self._crop_bytes

    @cached_property
    def labels(self) -> tuple[Tensor, Tensor]:
        """Of all people (N, K, 2) float32 joints in crop pixels and (N, K) float32 weights."""
        shard = self._shard
        joints = apply(shard.to_crop(np.arange(len(shard))), shard.joints)
        weights = self._counted(joints, shard.visibility > 0, shard.size)
        return torch.from_numpy(joints.astype(np.float32)), torch.from_numpy(weights.astype(np.float32))

    def take(self, index: np.ndarray) -> Tensor:
        """(B, H, W, 3) uint8 crops of the people at `index`. Raises PictureError."""
        if self._cut[index].all():
            return torch.from_numpy(self._crops[index])
        return torch.from_numpy(np.stack([self.read(i) for i in index.tolist()]))

    def read(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 crop of one person. Raises PictureError."""
        if self._cut[index]:
            return self._crops[index]
        patch = self._shard.read(index)
        crop = warp_opencv([patch], self._shard.to_crop(np.array([index])), self._shard.size)[0].numpy()
        if index < self._kept:
            self._crops[index] = crop
            self._cut[index] = True
        return crop
