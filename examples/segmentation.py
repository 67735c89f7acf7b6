"""A task of one's own, on public interfaces alone: which pixels are the person.

    python -m raf_ray.run task.name=examples.segmentation:Segmentation
    python -m raf_ray.run --compare task.name=examples.segmentation:Segmentation

The synthetic people's masks are known from their drawing. A level's target is the share of each output pixel that the
person covers (4 x 4 pixels of the image, or what `model.heatmap_stride` says); the loss is binary cross-entropy; a
level is taught by the softened probabilities of those above. The score is the mean over people of intersection over
union, in pixels of the test size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from raf_ray.data.batches import Batch
from raf_ray.data.people import People
from raf_ray.data.shard import Shard
from raf_ray.data.skeletons import Skeleton
from raf_ray.data.sources.silhouettes import silhouettes
from raf_ray.filters import area_resize
from raf_ray.metrics import Score
from raf_ray.objectives import Switches
from raf_ray.resolution import HEATMAP_STRIDE, Size
from raf_ray.tasks.interface import Decode, Task


@dataclass(frozen=True)
class Segmentation(Task):
    """A mask a person."""

    stride: int = HEATMAP_STRIDE
    """Image pixels per output pixel, on each side"""

    metric: ClassVar[str] = "IoU"
    switches: ClassVar[frozenset[str]] = frozenset({"temperature", "resize"})

    def outputs(self, skeleton: Skeleton) -> tuple[str, ...]:
        return ("person",)

    def at_stride(self, stride: int) -> Segmentation:
        return replace(self, stride=stride)

    def unfit(self, switches: Switches) -> str | None:
        if switches.get("resize") == "matched":
            return "objective.resize=matched is for Gaussian heatmaps, not for masks; take nearest or bilinear"
        return None

    def maps(self, people: People) -> People:
        return silhouettes(people)

    def targets(self, batch: Batch, size: Size) -> Tensor:
        """(B, 1, h / stride, w / stride) in [0, 1]."""
        assert batch.maps is not None
        return area_resize(batch.maps[..., 0].float()[:, None] / 255, size.heatmap(self.stride))

    def weights(self, batch: Batch) -> Tensor:
        """(B,) ones: every person has a mask."""
        return torch.ones(len(batch), device=batch.crops.device)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Mean over people and pixels of weight x binary cross-entropy."""
        losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean((1, 2, 3))
        return (losses * weights).mean()

    def distils(self, student: Tensor, teachers: Sequence[Tensor], weights: Tensor, switches: Switches) -> Tensor:
        """Mean over people and pixels of weight x KL(teachers || student) of each pixel at T, times T^2.

        Hinton et al. 2015 for two classes; all are brought to the first teacher's size, as RAF brings heatmaps.
        """
        heat, mode = switches.get("temperature", 1.0), switches.get("resize", "nearest")

        def resized(logits: Tensor) -> Tensor:
            return F.interpolate(logits, teachers[0].shape[-2:], mode=mode)

        taught = torch.stack([torch.sigmoid(resized(teacher) / heat) for teacher in teachers]).mean(0)
        pupil = resized(student) / heat
        cross = F.binary_cross_entropy_with_logits(pupil, taught, reduction="none")
        entropy = F.binary_cross_entropy(taught, taught, reduction="none")
        return ((cross - entropy).mean((1, 2, 3)) * weights).mean() * heat**2

    def answer(self, outputs: Tensor, decode: Decode) -> Tensor:
        """(B, 1, H, W) float32: the probability that a pixel of the image is the person."""
        return torch.sigmoid(F.interpolate(outputs, scale_factor=self.stride, mode="bilinear"))

    def judged(self, answer: Tensor, batch: Batch, seen: Size, size: Size) -> np.ndarray:
        """(B, 1): intersection over union."""
        assert batch.maps is not None
        if seen != size:
            answer = F.interpolate(answer, (size.height, size.width), mode="bilinear")
        return overlap(answer[:, 0].cpu().numpy() >= 0.5, batch.maps[..., 0].cpu().numpy() >= 128)[:, None]

    def score(self, people: People, shard: Shard, judged: np.ndarray, read: np.ndarray, metric: str) -> Score:
        value, count = float(judged[read, 0].mean()), int(read.sum())
        return Score(value, (value,), people=count, joints=count)


def overlap(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(B,) float32 intersection over union of (B, H, W) masks; 1 where both are empty."""
    both, either = (found & truth).sum((1, 2)), (found | truth).sum((1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0).astype(np.float32)
