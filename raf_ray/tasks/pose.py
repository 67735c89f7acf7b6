"""Keypoints by heatmaps: the task of the RAF paper (arXiv 2507.23461), scored by PCK or OKS AP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from raf_ray.data.batches import Batch, heatmaps_of
from raf_ray.data.codec import decode, flip_back, sigma_of
from raf_ray.data.people import People
from raf_ray.data.shard import Shard
from raf_ray.data.skeletons import Skeleton
from raf_ray.data.targets import Codec, counted, to_image
from raf_ray.errors import InputError
from raf_ray.metrics import Labels, Score, built_in
from raf_ray.metrics.interface import Regions
from raf_ray.objectives import Objective, Switches, build_objective, weighted_mse
from raf_ray.objectives.mrkd import distilled
from raf_ray.resolution import HEATMAP_STRIDE, Size
from raf_ray.tasks.interface import Decode, Task

NAMES = ("pose",)


@dataclass(frozen=True)
class Pose(Task):
    """A heatmap a joint."""

    codec: Codec = "subpixel"
    """How joints become heatmaps, and come back"""
    stride: int = HEATMAP_STRIDE
    """Image pixels per heatmap pixel, on each side"""

    answer_rank: ClassVar[int] = 3
    switches: ClassVar[frozenset[str]] = frozenset({"loss", "temperature", "resize"})
    draws_joints: ClassVar[bool] = True

    def outputs(self, skeleton: Skeleton) -> tuple[str, ...]:
        return skeleton.joints

    def at_stride(self, stride: int) -> Pose:
        return replace(self, stride=stride)

    def check(self, people: People, split: str, metric: str) -> None:
        check_metric(metric, people, split)

    def needs(self, metric: str) -> str:
        return built_in()[metric].needs

    def counted(self, joints: np.ndarray, labelled: np.ndarray, size: Size) -> np.ndarray:
        return counted(joints, labelled, size, self.codec, self.stride)

    def targets(self, batch: Batch, size: Size) -> Tensor:
        return heatmaps_of(batch, size, self.codec, self.stride)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return weighted_mse(outputs, targets, weights)

    def distils(self, student: Tensor, teachers: Sequence[Tensor], weights: Tensor, switches: Switches) -> Tensor:
        return distilled(student, teachers, weights, switches)

    def objective(self, name: str, switches: Switches) -> Objective:
        return build_objective(name, switches)

    def mirrored(self, outputs: Tensor, skeleton: Skeleton) -> Tensor:
        return flip_back(outputs, torch.tensor(skeleton.flip_order, device=outputs.device))

    def answer(self, outputs: Tensor, decode_by: Decode) -> Tensor:
        """(B, K, 3) float32: x, y in pixels of the images, and the heatmap's peak."""
        points, peaks = decode(outputs, decode_by, sigma_of(self.stride))
        places = to_image(points, Size(*outputs.shape[-2:]), self.codec, self.stride)
        return torch.cat([places, peaks.unsqueeze(-1)], dim=-1)

    def judged(self, answer: Tensor, batch: Batch, seen: Size, size: Size) -> np.ndarray:
        """(B, K, 3): the answer in pixels of the test size."""
        found = answer.cpu().numpy()
        if seen == size:
            return found
        to_size = np.array([size.width / seen.width, size.height / seen.height], np.float32)
        return np.concatenate([(found[..., :2] + 0.5) * to_size - 0.5, found[..., 2:]], axis=-1)

    def score(self, people: People, shard: Shard, judged: np.ndarray, read: np.ndarray, metric: str) -> Score:
        in_picture = shard.crop_to_picture(judged[..., :2])
        confidence = np.ascontiguousarray(judged[read][..., 2])
        return built_in()[metric].measure(labels_of(people.take(read)), in_picture[read], confidence)


def labels_of(people: People) -> Labels:
    """What a metric may look at."""
    corner = people.centre + 0.5 - people.box / 2
    region = people.ignored
    return Labels(
        skeleton=people.skeleton.name,
        joint_names=people.skeleton.joints,
        sigmas=np.array(people.skeleton.sigmas),
        joints=people.joints,
        visibility=people.visibility,
        area=people.area,
        box_xywh=np.concatenate([corner, people.box], axis=1),
        head_size=people.head_size,
        picture_id=people.picture_id,
        ignored=None if region is None else Regions(region.picture_id, region.box_xywh, region.area, region.crowd),
    )


def check_metric(name: str, people: People, split: str) -> None:
    """Raise InputError where the people of a split lack what the metric needs, so that nothing could be scored."""
    metric, labels = built_in()[name], labels_of(people)
    lacking = metric.lacks(labels)
    if lacking is not None:
        raise InputError(lacking)
    if not metric.is_enough(labels):
        key = "evaluation.val_metric or evaluation.metric" if split == "val" else "evaluation.metric"
        raise InputError(
            f"nothing can be scored on {split} by {name}: none of its {len(people)} people has {metric.needs}; "
            f"choose another {key}, or other people"
        )
