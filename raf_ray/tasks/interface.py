"""What a task decides, and no other part knows: outputs, targets, losses, and how a model is scored.

A model gives (B, K, h, w) outputs for (B, 3, H, W) images of any size, one channel for each name of `Task.outputs`.
Where a task has its say:

    Task.adapt       the model, before its first weights: another head
    Task.targets     each level of a batch's pyramid -> what its outputs are held against
    Task.loss        outputs against targets, one level
    Task.distils     a level's outputs against those of the levels that teach it
    Task.answer      outputs -> what a saved model answers
    Task.judged      answer and batch -> what the score needs of each person
    Task.score       of a split at one size -> value in [0, 1]

Federation, FL methods, transforms and checkpoints see the model's weights alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from raf_ray.data.batches import Batch
from raf_ray.data.crops import weights_of
from raf_ray.data.people import People
from raf_ray.data.shard import Shard
from raf_ray.data.skeletons import Skeleton
from raf_ray.errors import InputError
from raf_ray.metrics import Score
from raf_ray.objectives import Loss, Objective, Switches
from raf_ray.objectives.pyramid import over_levels, teachers_of
from raf_ray.resolution import HEATMAP_STRIDE, Size

Decode = Literal["argmax", "dark", "udp_dark"]
"""Of heatmaps"""

ANY_TASK: frozenset[str] = frozenset({"alpha", "teacher", "weighting", "kd_weight", "reduction"})
"""Of RAF's switches, those that say how losses are combined, whatever they are."""


class Task(ABC):
    """One task. It keeps nothing between calls, and travels to the clients as it is."""

    metric: ClassVar[str | None] = None
    """The name of its score; None: evaluation.metric says which"""
    switches: ClassVar[frozenset[str]] = frozenset()
    """Keys of `objective.*` that `distils` goes by, beside those of ANY_TASK; others are refused"""
    answer_rank: ClassVar[int] = 4
    """Dimensions of an answer, people first"""
    draws_joints: ClassVar[bool] = False
    """Whether an answer is joints, as samples.png and raf_ray.predict draw them"""

    @abstractmethod
    def outputs(self, skeleton: Skeleton) -> tuple[str, ...]:
        """A name for each of the model's K output channels; scores are told by them too."""

    def at_stride(self, stride: int) -> Task:
        """The task of outputs (B, K, H / stride, W / stride), which `model.heatmap_stride` asks for.

        Raises InputError where it has none: by default of any stride but 4.
        """
        if stride != HEATMAP_STRIDE:
            raise InputError(
                f"model.heatmap_stride={stride} does not go with the task {type(self).__name__}, which takes models of "
                f"stride {HEATMAP_STRIDE} as they are; leave it out"
            )
        return self

    def adapt(self, model: nn.Module, outputs: int) -> nn.Module:
        """The model with the head that the task needs. Raises InputError where it can have none."""
        return model

    def unfit(self, switches: Switches) -> str | None:
        """Why RAF cannot do what those say with this task, and what to do; None where it can."""
        return None

    def check(self, people: People, split: str, metric: str) -> None:
        """Raise InputError where nothing could be scored on a split, or its people lack what the task needs."""
        if not self.targeted(people).any():
            raise InputError(f"nothing can be scored on {split} by {metric}: none of its {len(people)} people has "
                             f"{self.needs(metric)}; choose other people")  # fmt: skip

    def targeted(self, people: People) -> np.ndarray:
        """(N,) bool: whose labels are enough."""
        return np.ones(len(people), bool)

    def needs(self, metric: str) -> str:
        """What a person must have to be scored."""
        return "a picture"

    def maps(self, people: People) -> People | None:
        """The same people, whose pictures are their label maps, (H, W, 3) uint8; None where labels are joints.

        They are cut, moved and cached just as the pictures are, and come as `Batch.maps`. Raises InputError where
        their source has none.
        """
        return None

    def counted(self, joints: np.ndarray, labelled: np.ndarray, size: Size) -> np.ndarray:
        """(B, K) bool: which joints (B, K, 2), in pixels of crops of `size`, have weight 1 in a batch."""
        return weights_of(joints, labelled, size)

    @abstractmethod
    def targets(self, batch: Batch, size: Size) -> Tensor:
        """(B, ...) of a level: what `loss` holds the outputs for images of `size` against."""

    def weights(self, batch: Batch) -> Tensor:
        """(B, ...) float32: how much people, or their joints, count in both losses."""
        return batch.weights

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Scalar: (B, K, h, w) outputs of one level against its targets."""

    @abstractmethod
    def distils(self, student: Tensor, teachers: Sequence[Tensor], weights: Tensor, switches: Switches) -> Tensor:
        """Scalar: a level's outputs against those of the higher levels that teach it, which are detached."""

    def objective(self, name: str, switches: Switches) -> Objective:
        """`heatmap` (own level alone), `multires` or `mrkd`, made of the task's two losses as RAF's is of heatmaps'."""
        return _Pyramid(self, name, switches)

    def mirrored(self, outputs: Tensor, skeleton: Skeleton) -> Tensor:
        """Outputs for mirrored images -> those for the images themselves."""
        return outputs.flip(-1)

    @abstractmethod
    def answer(self, outputs: Tensor, decode: Decode) -> Tensor:
        """(B, ...) float32 that a saved model answers; of places, in pixels of the images that it saw."""

    @abstractmethod
    def judged(self, answer: Tensor, batch: Batch, seen: Size, size: Size) -> np.ndarray:
        """(B, ...) float32: what `score` needs of each person.

        Args:
            seen: of the images that the model saw; another than `size` where they were interpolated.
        """

    @abstractmethod
    def score(self, people: People, shard: Shard, judged: np.ndarray, read: np.ndarray, metric: str) -> Score:
        """The score of a split at the shard's size.

        Args:
            judged: (N, ...) of `judged`.
            read: (N,) bool, whose picture could be read; the others are not scored.
        """


class _Pyramid:
    """An objective of a task's two losses."""

    def __init__(self, task: Task, name: str, switches: Switches) -> None:
        if name not in ("heatmap", "multires", "mrkd"):
            raise ValueError(f"no built-in objective is called '{name}'")
        self._task, self._name, self._switches = task, name, switches

    def __call__(
        self, outputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Tensor, level_weights: Sequence[float], /
    ) -> Loss:
        switches = self._switches
        if self._name == "heatmap":
            outputs, targets, level_weights = outputs[:1], targets[:1], level_weights[:1]

        def ground_truth(level: int) -> Tensor:
            return self._task.loss(outputs[level], targets[level], weights)

        def distilled(level: int) -> Tensor:
            chosen = teachers_of(switches.get("teacher", "previous"), outputs[:level])
            return self._task.distils(outputs[level], [t.detach() for t in chosen], weights, switches)

        return over_levels(
            len(outputs), ground_truth, distilled, level_weights,
            alpha=1.0 if self._name != "mrkd" else switches.get("alpha", 0.5),
            weighting="convex" if self._name != "mrkd" else switches.get("weighting", "convex"),
            kd_weight=switches.get("kd_weight", 1.0),
            reduction=switches.get("reduction", "mean"),
        )  # fmt: skip
