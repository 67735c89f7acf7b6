"""Batches of one client: crops of a shard at its tier, and the pyramid of images and targets below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from raf_ray.data.augment import Augmentation, apply, compose, draw_affines
from raf_ray.data.crops import Counted, PlainCrops, weights_of
from raf_ray.data.people import PictureError
from raf_ray.data.shard import Shard
from raf_ray.data.skeletons import Skeleton
from raf_ray.data.targets import Codec, targets_of
from raf_ray.data.warp import reduce, to_device, warp
from raf_ray.resolution import HEATMAP_STRIDE, Size

# ImageNet's mean and standard deviation on the 0..255 scale, which every pretrained backbone expects.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
NORMALISED = ((np.arange(256, dtype=np.float32)[:, None] - np.array(MEAN, np.float32)) / np.array(STD, np.float32))[
    None
]
"""(1, 256, 3) float32, of each value of each channel: one look-up a value in place of three passes over a picture."""


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
    levels: tuple[int, ...] = ()
    """Which levels of its client's pyramid it trains, highest first; a task draws them."""
    maps: Tensor | None = None
    """(B, H, W, 3) uint8 crops of the people's label maps, where the task has such"""
    skeleton: Skeleton | None = None
    """Of the joints, where it is known"""
    inner: bool = False
    """Sizes are related by their W - 1 steps between pixel centres (`CropRule.inner`), not by their pixels."""
    warped: Mapping[Size, Tensor] = field(default_factory=dict)
    """(B, h, w, 3) uint8 crops at lower sizes, where those are warped anew from the pictures"""

    def __len__(self) -> int:
        return len(self.crops)


@dataclass(frozen=True)
class Draw:
    """What chance decides of a batch, before any pixel is touched."""

    index: np.ndarray
    """(B,) people of the shard"""
    moved: Moved | None
    """None: not augmented"""


@dataclass(frozen=True)
class Moved:
    """Augmented people."""

    maps: np.ndarray
    """(B, 2, 3) float64, patches -> crops"""
    joints: np.ndarray
    """(B, K, 2) float64, crop pixels"""
    labelled: np.ndarray
    """(B, K) bool"""


@dataclass(frozen=True)
class Level:
    """One level of a batch's pyramid."""

    size: Size
    images: Tensor
    """(B, 3, h, w) float32, normalised, channels last in memory"""
    targets: Tensor
    """The task's; of poses (B, K, h / stride, w / stride) float32"""


def normalise(crops: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> float32 of zero mean and unit variance by ImageNet's statistics."""
    if crops.device.type != "cpu":
        mean, std = (torch.tensor(values, device=crops.device) for values in (MEAN, STD))
        return (crops - mean) / std
    rows = crops.numpy().reshape(-1, crops.shape[2], 3)
    return torch.from_numpy(cv2.LUT(rows, NORMALISED)).view(crops.shape)


@lru_cache(maxsize=256)
def _ratio(source: Size, target: Size, device: torch.device) -> Tensor:
    """(2,) x and y pixels of `target` per pixel of `source`."""
    return torch.tensor([target.width / source.width, target.height / source.height], device=device)


def joints_at(batch: Batch, size: Size) -> Tensor:
    """(B, K, 2) of the batch's joints in pixels of its images of `size`."""
    own, device = Size(*batch.crops.shape[1:3]), batch.joints.device
    if batch.inner and size in batch.warped:
        steps = [Size(one.height - 1, one.width - 1) for one in (own, size)]
        return batch.joints * _ratio(steps[0], steps[1], device)
    return (batch.joints + 0.5) * _ratio(own, size, device) - 0.5


def heatmaps_of(batch: Batch, size: Size, codec: Codec = "subpixel", stride: int = HEATMAP_STRIDE) -> Tensor:
    """(B, K, h / stride, w / stride) float32 Gaussian targets of the batch's joints in images of `size`."""
    return targets_of(joints_at(batch, size), size, codec, stride)


def render_pyramid(
    batch: Batch, levels: Sequence[Size], targets: Callable[[Batch, Size], Tensor] = heatmaps_of
) -> list[Level]:
    """Images by exact area averaging of the same crops, targets from the same labels, at each of `levels`."""
    images = images_at(batch, levels)
    return [Level(size, own, targets(batch, size)) for size, own in zip(levels, images, strict=True)]


def images_at(batch: Batch, levels: Sequence[Size]) -> list[Tensor]:
    """(B, 3, H, W) of the batch's crops at each size, by exact area averaging."""
    pixels = normalise(batch.crops)  # once: the average of normalised pixels is the normalised average
    at_size = (normalise(batch.warped[size]) if size in batch.warped else reduce(pixels, size) for size in levels)
    return [images.permute(0, 3, 1, 2) for images in at_size]


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
    maps: Shard | None = None
    """The same people's label maps, cut alike"""
    counted: Counted = weights_of
    """Which joints have weight 1"""
    plain: PlainCrops = field(init=False, repr=False)
    plain_maps: PlainCrops | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.plain = PlainCrops(self.shard, self.counted)
        self.plain_maps = None if self.maps is None else PlainCrops(self.maps)

    def __len__(self) -> int:
        """People with a readable picture, as far as known."""
        return len(self.shard) - len(self.bad)

    @property
    def cached_mb(self) -> float:
        """Memory that crops and patches take."""
        own = self.plain.cached_bytes + self.shard.cached_bytes
        if self.maps is not None and self.plain_maps is not None:
            own += self.plain_maps.cached_bytes + self.maps.cached_bytes
        return own / 2**20

    def draws(self, rng: np.random.Generator) -> Iterator[Draw]:
        """Every person once, in an order drawn from `rng`: batches to `render`."""
        order = rng.permutation(len(self.shard))
        for start in range(0, len(order), self.batch_size):
            draw = self.draw(order[start : start + self.batch_size], rng)
            if draw is not None:
                yield draw

    def collate(self, index: np.ndarray, rng: np.random.Generator) -> Batch | None:
        """The people at `index` as one batch; None where none of their pictures can be read."""
        draw = self.draw(index, rng)
        return None if draw is None else self.render(draw)

    def draw(self, index: np.ndarray, rng: np.random.Generator) -> Draw | None:
        """Decide how the people at `index` are shown; None where none of their pictures can be read."""
        if self.on_bad_image == "skip":
            index = index[np.array([self._is_readable(i) for i in index.tolist()], bool)]
        if not len(index):
            return None
        return Draw(index, None if self.augmentation is None else self._move(self.augmentation, index, rng))

    def _move(self, augmentation: Augmentation, index: np.ndarray, rng: np.random.Generator) -> Moved:
        shard = self.shard
        maps = shard.to_crop(index)
        joints = apply(maps, shard.joints[index])
        labelled = shard.visibility[index] > 0
        drawn, mirrored = draw_affines(
            augmentation, joints, labelled, shard.size, shard.skeleton, rng, shard.rule.squeeze(shard.size)
        )
        joints = apply(drawn, joints)
        order = shard.skeleton.flip_order
        joints[mirrored] = joints[mirrored][:, order]
        labelled = np.where(mirrored[:, None], labelled[:, order], labelled)
        return Moved(compose(drawn, maps), joints, labelled)

    def render(self, draw: Draw, levels: Sequence[Size] = ()) -> Batch:
        """The batch on the device; `levels` are warped anew where the crops' rule reduces no patches.

        Raises PictureError.
        """
        shard, moved = self.shard, draw.moved
        if moved is None:
            rows = torch.from_numpy(draw.index)
            crops = self.plain.take(draw.index)
            maps = None if self.plain_maps is None else self.plain_maps.take(draw.index)
            joints, weights = (labels[rows] for labels in self.plain.labels)
        else:
            crops = self._moved(shard, draw.index, moved)
            maps = None if self.maps is None else self._moved(self.maps, draw.index, moved)
            joints = torch.from_numpy(moved.joints.astype(np.float32))
            weights = torch.from_numpy(self.counted(moved.joints, moved.labelled, shard.size).astype(np.float32))
        return Batch(
            crops=to_device(crops, self.device),
            joints=to_device(joints, self.device),
            weights=to_device(weights, self.device),
            person_id=shard.person_id[draw.index],
            maps=None if maps is None else to_device(maps, self.device),
            skeleton=shard.skeleton,
            inner=shard.rule.inner,
            warped={} if shard.rule.reduced else self._warped(draw, levels),
        )

    def _warped(self, draw: Draw, levels: Sequence[Size]) -> dict[Size, Tensor]:
        """The people at sizes other than the shard's, from the same patches by the same maps (the RAF authors')."""
        shard, rule = self.shard, self.shard.rule
        maps = shard.to_crop(draw.index) if draw.moved is None else draw.moved.maps
        patches = [shard.patch(i) for i in draw.index.tolist()]
        found = {}
        for size in levels:
            if size == shard.size:
                continue
            ratio = np.array(rule.span(size)) / rule.span(shard.size)
            middles = [np.array([(one.width - 1) / 2, (one.height - 1) / 2]) for one in (shard.size, size)]
            smaller = np.zeros((len(maps), 2, 3))
            smaller[:, 0, 0], smaller[:, 1, 1] = ratio
            smaller[:, :, 2] = middles[1] - ratio * middles[0]
            found[size] = to_device(warp(patches, compose(smaller, maps), size, self.device), self.device)
        return found

    def _moved(self, shard: Shard, index: np.ndarray, moved: Moved) -> Tensor:
        return warp([shard.patch(i) for i in index.tolist()], moved.maps, shard.size, self.device)

    def _is_readable(self, index: int) -> bool:
        if index in self.bad:
            return False
        try:
            if self.augmentation is None:
                self.plain.read(index)
            else:
                self.shard.patch(index)
        except PictureError:
            self.bad.add(index)
            return False
        return True
