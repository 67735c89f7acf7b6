"""Batches of one client: crops of a shard at its tier, and the pyramid of images and targets below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raf_ray.data.augment import Augmentation, apply, compose, draw_affines
from raf_ray.data.codec import encode, image_to_heatmap
from raf_ray.data.people import PictureError
from raf_ray.data.shard import Shard
from raf_ray.data.warp import warp
from raf_ray.filters import area_resize
from raf_ray.resolution import Size

# ImageNet's mean and standard deviation on the 0..255 scale, which every pretrained backbone expects.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Batch:
    """B people at the client's own tier."""

    crops: Tensor
    """(B, H, W, 3) uint8 RGB"""
    joints: Tensor
    """(B, K, 2) float32, crop pixels"""
    weights: Tensor
    """(B, K) float32, 1 where the joint is labelled and inside the crop, else 0"""
    person_id: np.ndarray
    """(B,) int64, the source's own"""

    def __len__(self) -> int:
        return len(self.crops)


@dataclass(frozen=True)
class Level:
    """One level of a batch's pyramid."""

    size: Size
    images: Tensor
    """(B, 3, h, w) float32, normalised"""
    targets: Tensor
    """(B, K, h/4, w/4) float32"""


def normalise(images: Tensor) -> Tensor:
    """(B, 3, h, w) float 0..255 -> zero mean and unit variance by ImageNet's statistics."""
    mean, std = _statistics(images.device)
    return (images - mean).div_(std)


@lru_cache(maxsize=8)
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return mean, std


def render_pyramid(batch: Batch, levels: Sequence[Size]) -> list[Level]:
    """Images by exact area averaging of the same crops, targets from the same joints, at each of `levels`."""
    images = batch.crops.permute(0, 3, 1, 2).float()
    height, width = images.shape[-2:]
    rendered = []
    for size in levels:
        ratio = torch.tensor([size.width / width, size.height / height], device=images.device)
        joints = (batch.joints + 0.5) * ratio - 0.5
        level = normalise(area_resize(images, size)).contiguous(memory_format=torch.channels_last)
        rendered.append(Level(size, level, encode(image_to_heatmap(joints), size.heatmap)))
    return rendered


@dataclass
class Batches:
    """All batches of one client's shard, epoch by epoch."""

    shard: Shard
    batch_size: int
    augmentation: Augmentation | None
    device: torch.device
    on_bad_image: Literal["stop", "skip"] = "stop"
    bad: set[int] = field(default_factory=set)
    """Indices of people left out because their picture is missing or cannot be decoded."""
    _plain: np.ndarray | None = field(default=None, repr=False)
    """(M, H, W, 3) uint8 unaugmented crops of the first M people, as many as the shard's limit holds"""
    _made: np.ndarray = field(init=False, repr=False)
    """(N,) bool: of these, which are there"""
    _labels: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    """Joints (N, K, 2) and weights (N, K) of the unaugmented crops"""

    def __post_init__(self) -> None:
        self._made = np.zeros(len(self.shard), bool)

    def __len__(self) -> int:
        """People with a readable picture, as far as known."""
        return len(self.shard) - len(self.bad)

    @property
    def cached_mb(self) -> float:
        """Memory that crops and patches take."""
        plain = 0 if self._plain is None else self._plain.nbytes
        return (plain + self.shard.cached_bytes) / 2**20

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Every person once, in an order drawn from `rng`."""
        order = rng.permutation(len(self.shard))
        for start in range(0, len(order), self.batch_size):
            batch = self.collate(order[start : start + self.batch_size], rng)
            if batch is not None:
                yield batch

    def collate(self, index: np.ndarray, rng: np.random.Generator) -> Batch | None:
        """The people at `index` as one batch; None where none of their pictures can be read."""
        if self.on_bad_image == "skip":
            index = index[[self._is_readable(int(i)) for i in index]]
        if not len(index):
            return None
        if self.augmentation is None:
            places, weights = self._plain_labels()
            rows = torch.from_numpy(index)
            plain = torch.from_numpy(self._plain_crops(index)).to(self.device)
            return Batch(plain, places[rows], weights[rows], self.shard.person_id[index])
        shard, maps = self.shard, self.shard.to_crop(index)
        joints, labelled = apply(maps, shard.joints[index]), shard.visibility[index] > 0
        drawn, mirrored = draw_affines(self.augmentation, joints, labelled, shard.size, shard.skeleton, rng)
        joints = apply(drawn, joints)
        order = shard.skeleton.flip_order
        joints[mirrored] = joints[mirrored][:, order]
        labelled = np.where(mirrored[:, None], labelled[:, order], labelled)
        patches = [shard.patch(int(i)) for i in index]
        crops = warp(patches, compose(drawn, maps), shard.size, self.device)
        return Batch(crops, *self._on_device(joints, labelled), shard.person_id[index])

    def _on_device(self, joints: np.ndarray, labelled: np.ndarray) -> tuple[Tensor, Tensor]:
        """Joints (n, K, 2) in crop pixels, and the weights (n, K) of those that are labelled and inside."""
        size = self.shard.size
        inside = np.all((joints >= -0.5) & (joints < (size.width - 0.5, size.height - 0.5)), -1)
        place, weight = (torch.tensor(a, dtype=torch.float32, device=self.device) for a in (joints, labelled & inside))
        return place, weight

    def _plain_labels(self) -> tuple[Tensor, Tensor]:
        if self._labels is None:
            shard = self.shard
            everyone = np.arange(len(shard))
            self._labels = self._on_device(apply(shard.to_crop(everyone), shard.joints), shard.visibility > 0)
        return self._labels

    def _plain_crops(self, index: np.ndarray) -> np.ndarray:
        """(n, H, W, 3) uint8 unaugmented crops, kept in place of their patches within the shard's limit."""
        if self._plain is None:
            size = self.shard.size
            most = int(self.shard.cache_mb * 2**20 / (3 * size.pixels))
            self._plain = np.empty((min(most, len(self.shard)), size.height, size.width, 3), np.uint8)
        for i in index[~self._made[index]]:
            if i < len(self._plain):
                self._plain[i] = self._plain_crop(int(i))
                self._made[i] = True
        if self._made[index].all():
            return np.asarray(self._plain[index])
        return np.stack([self._plain[i] if self._made[i] else self._plain_crop(int(i)) for i in index])

    def _plain_crop(self, index: int) -> np.ndarray:
        """(H, W, 3)"""
        maps = self.shard.to_crop(np.array([index]))
        return warp([self.shard.read(index)], maps, self.shard.size, torch.device("cpu"))[0].numpy()

    def _is_readable(self, index: int) -> bool:
        if index in self.bad:
            return False
        try:
            if self.augmentation is None:
                self._plain_crops(np.array([index]))
            else:
                self.shard.patch(index)
        except PictureError:
            self.bad.add(index)
            return False
        return True
