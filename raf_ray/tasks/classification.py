"""Front or back: a class for the picture as a whole, decided by a person's joints.

A person is seen from the `front` where the left shoulder lies clockwise of the right one around the trunk, from hips to
shoulders, else from the `back`. So the class is that of the person, whatever the size, the lean or a mirror. It takes
hips and shoulders that are labelled and inside the crop: people without are neither trained on nor scored. Of the
synthetic people 70 % face us; the score weighs both classes the same, so chance is one half.

RAF's counterpart: each level's softened class probabilities teach the levels below (Hinton et al. 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raf_ray.data.batches import Batch
from raf_ray.data.people import People
from raf_ray.data.shard import Shard
from raf_ray.data.skeletons import Skeleton
from raf_ray.errors import InputError
from raf_ray.metrics import Score
from raf_ray.metrics.top1 import top1
from raf_ray.models.pooled_head import with_pooled_head
from raf_ray.objectives import Switches
from raf_ray.resolution import Size
from raf_ray.tasks.interface import Decode, Task

NAMES = ("classification",)

JOINTS = ("left_hip", "right_hip", "left_shoulder", "right_shoulder")


def faces_us(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """(N,) bool of (N, K, 2) joints in any pixels."""
    left_hip, right_hip, left, right = (joints[:, index].astype(np.float64) for index in _indices(skeleton))
    trunk, across = left + right - left_hip - right_hip, left - right
    return np.asarray(trunk[:, 0] * across[:, 1] - trunk[:, 1] * across[:, 0] > 0)


def _indices(skeleton: Skeleton) -> list[int]:
    return [skeleton.joints.index(name) for name in JOINTS]


@dataclass(frozen=True)
class Classification(Task):
    """Whether a person is seen from the front."""

    metric: ClassVar[str] = "top1"
    switches: ClassVar[frozenset[str]] = frozenset({"temperature"})
    answer_rank: ClassVar[int] = 2

    def outputs(self, skeleton: Skeleton) -> tuple[str, ...]:
        return ("back", "front")

    def adapt(self, model: nn.Module, outputs: int) -> nn.Module:
        return with_pooled_head(model, outputs)

    def targeted(self, people: People) -> np.ndarray:
        lacking = [name for name in JOINTS if name not in people.skeleton.joints]
        if lacking:
            raise InputError(
                f"task.name=classification needs the joint {lacking[0]}, which skeleton {people.skeleton.name} lacks; "
                "choose other people"
            )
        return np.asarray((people.visibility[:, _indices(people.skeleton)] > 0).all(axis=1))

    def needs(self, metric: str) -> str:
        return "labels of hips and shoulders"

    def targets(self, batch: Batch, size: Size) -> Tensor:
        """(B,) int64 class numbers."""
        assert batch.skeleton is not None
        classes = faces_us(batch.joints.cpu().numpy(), batch.skeleton)
        return torch.from_numpy(classes.astype(np.int64)).to(batch.joints.device)

    def weights(self, batch: Batch) -> Tensor:
        """(B,) float32: 1 where the joints that decide are labelled and inside the crop, else 0."""
        assert batch.skeleton is not None
        return batch.weights[:, _indices(batch.skeleton)].amin(dim=1)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Mean over people of weight x cross-entropy; one of weight 0 adds nothing and stays in the denominator."""
        return (F.cross_entropy(outputs.flatten(1), targets, reduction="none") * weights).mean()

    def distils(self, student: Tensor, teachers: Sequence[Tensor], weights: Tensor, switches: Switches) -> Tensor:
        """Mean over people of weight x KL(teachers || student) at T, times T^2 (Hinton et al. 2015).

        Several teachers' softened probabilities are averaged.
        """
        heat = switches.get("temperature", 1.0)
        taught = torch.stack([F.softmax(teacher.flatten(1) / heat, dim=1) for teacher in teachers]).mean(0)
        pupil = F.log_softmax(student.flatten(1) / heat, dim=1)
        return (F.kl_div(pupil, taught, reduction="none").sum(1) * weights).mean() * heat**2

    def mirrored(self, outputs: Tensor, skeleton: Skeleton) -> Tensor:
        """The same: a face is one in a mirror too."""
        return outputs

    def answer(self, outputs: Tensor, decode: Decode) -> Tensor:
        """(B, 2) float32: the probability of each class."""
        return F.softmax(outputs.flatten(1), dim=1)

    def judged(self, answer: Tensor, batch: Batch, seen: Size, size: Size) -> np.ndarray:
        """(B, 1): the likeliest class."""
        return answer.argmax(dim=1, keepdim=True).float().cpu().numpy()

    def score(self, people: People, shard: Shard, judged: np.ndarray, read: np.ndarray, metric: str) -> Score:
        truth = faces_us(people.joints, people.skeleton).astype(np.int64)
        return top1(judged[:, 0].astype(np.int64), truth, self.targeted(people) & read, 2)
