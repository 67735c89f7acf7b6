"""Batches of one client: crops of a shard at its tier, and the pyramid of images and targets below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / std


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
    _plain: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _plain_bytes: int = 0

    def __len__(self) -> int:
        """People with a readable picture, as far as known."""
        return len(self.shard) - len(self.bad)

    @property
    def cached_mb(self) -> float:
        """Memory that crops and patches take."""
        return (self._plain_bytes + self.shard.cached_bytes) / 2**20

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Every person once, in an order drawn from `rng`."""
        order = rng.permutation(len(self.shard))
        for start in range(0, len(order), self.batch_size):
            batch = self.collate(order[start : start + self.batch_size], rng)
            if batch is not None:
                yield batch

    def collate(self, index: np.ndarray, rng: np.random.Generator) -> Batch | None:
        """The people at `index` as one batch; None where none of their pictures can be read."""
        readable = np.array([self._is_readable(int(i)) for i in index])
        index = index[readable]
        if not len(index):
            return None
        shard = self.shard
        maps = shard.to_crop(index)
        joints = apply(maps, shard.joints[index])
        labelled = shard.visibility[index] > 0
        if self.augmentation is None:
            crops = torch.from_numpy(np.stack([self._plain_crop(int(i)) for i in index])).to(self.device)
        else:
            drawn, mirrored = draw_affines(self.augmentation, joints, labelled, shard.size, shard.skeleton, rng)
            joints = apply(drawn, joints)
            order = shard.skeleton.flip_order
            joints[mirrored] = joints[mirrored][:, order]
            labelled = np.where(mirrored[:, None], labelled[:, order], labelled)
            patches = [shard.patch(int(i)) for i in index]
            crops = warp(patches, compose(drawn, maps), shard.size, self.device)
        inside = np.all((joints >= -0.5) & (joints < (shard.size.width - 0.5, shard.size.height - 0.5)), -1)
        return Batch(
            crops=crops,
            joints=torch.tensor(joints, dtype=torch.float32, device=self.device),
            weights=torch.tensor(labelled & inside, dtype=torch.float32, device=self.device),
            person_id=shard.person_id[index],
        )

    def _plain_crop(self, index: int) -> np.ndarray:
        """(H, W, 3) unaugmented crop; kept in memory in place of its patch, within the shard's limit."""
        crop = self._plain.get(index)
        if crop is None:
            one = np.array([index])
            patch = self.shard.read(index)
            crop = warp([patch], self.shard.to_crop(one), self.shard.size, torch.device("cpu"))[0].numpy()
            if (len(self._plain) + 1) * crop.nbytes <= self.shard.cache_mb * 2**20:
                self._plain[index] = crop
                self._plain_bytes += crop.nbytes
        return crop

    def _is_readable(self, index: int) -> bool:
        if index in self.bad:
            return False
        if self.on_bad_image == "stop":
            return True
        try:
            if self.augmentation is None:
                self._plain_crop(index)
            else:
                self.shard.patch(index)
        except PictureError:
            self.bad.add(index)
            return False
        return True
