"""What perfect heatmaps score: the ceiling that coordinates alone set at a size. No picture is read, no model run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from raf_ray.data.augment import NO_MARGINS, apply
from raf_ray.data.batches import Batch
from raf_ray.data.people import People
from raf_ray.data.shard import Shard
from raf_ray.evaluation.scorer import CutShard
from raf_ray.metrics import Score
from raf_ray.resolution import Size
from raf_ray.tasks import Task
from raf_ray.tasks.interface import Decode


@dataclass(frozen=True)
class Oracle:
    """Answers each person's own targets, by the way that a model's heatmaps go: flip test, decoding, metric."""

    task: Task
    """One whose targets are what a perfect model gives, such as poses"""
    decode: Decode
    flip_test: bool
    batch_size: int
    cut: CutShard
    upsampled: Mapping[Size, Size]
    """Test size -> the size that the model would see"""

    def score(self, people: People, size: Size, metric: str) -> Score:
        shard = self.cut(people, size, NO_MARGINS, 0.0)
        seen = self.upsampled.get(size, size)
        judged = [
            self._judged(shard, np.arange(start, min(start + self.batch_size, len(people))), seen)
            for start in range(0, len(people), self.batch_size)
        ]
        return self.task.score(people, shard, np.concatenate(judged), np.ones(len(people), bool), metric)

    def _judged(self, shard: Shard, index: np.ndarray, seen: Size) -> np.ndarray:
        joints = apply(shard.to_crop(index), shard.joints[index])
        ratio = np.array([seen.width / shard.size.width, seen.height / shard.size.height])
        batch = _labelled(shard, index, (joints + 0.5) * ratio - 0.5, seen)
        heatmaps = self.task.targets(batch, seen)
        if self.flip_test:
            order = list(shard.skeleton.flip_order)
            mirrored = batch.joints[:, order]
            mirrored = torch.stack([seen.width - 1 - mirrored[..., 0], mirrored[..., 1]], dim=-1)
            flipped = self.task.targets(replace(batch, joints=mirrored), seen)
            heatmaps = (heatmaps + self.task.mirrored(flipped, shard.skeleton)) / 2
        return self.task.judged(self.task.answer(heatmaps, self.decode), batch, seen, shard.size)


def _labelled(shard: Shard, index: np.ndarray, joints: np.ndarray, size: Size) -> Batch:
    """People at `size` without their pixels; joints (B, K, 2) in its pixels."""
    no_pixels: Tensor = torch.zeros((), dtype=torch.uint8).expand(len(index), size.height, size.width, 3)
    points = torch.from_numpy(joints.astype(np.float32))
    return Batch(no_pixels, points, torch.ones(points.shape[:2]), shard.person_id[index], skeleton=shard.skeleton)


def ceiling(oracle: Oracle, people: People, sizes: Sequence[Size], metric: str) -> dict[str, float]:
    """Size -> what perfect heatmaps score there, in [0, 1]."""
    return {str(size): oracle.score(people, size, metric).value for size in sizes}
