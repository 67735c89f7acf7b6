"""A client before it lives anywhere: plain records that build it in its process. No config travels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import torch
from torch import nn

from raf_ray.algorithms.interface import Algorithm
from raf_ray.data.augment import Augmentation
from raf_ray.data.batches import Batch, Batches
from raf_ray.data.crop import Margins
from raf_ray.data.encoded import OnBadImage
from raf_ray.data.people import People
from raf_ray.data.shard import Shard, cut_shard
from raf_ray.models import ModelSpec
from raf_ray.objectives import Objective, Switches, build_objective
from raf_ray.objectives.levels import Sampling
from raf_ray.plugins import is_import_path, load_object
from raf_ray.resolution import Size
from raf_ray.training.client import Client, LocalTraining
from raf_ray.training.exchange import Workplace
from raf_ray.training.pose import PoseTask
from raf_ray.transforms.interface import Transform


@dataclass(frozen=True)
class ClientPlan:
    """One client before it exists."""

    name: str
    number: int
    tier: str
    size: Size
    levels: tuple[Size, ...]
    level_weights: tuple[float, ...]


@dataclass(frozen=True)
class ClientData:
    """What a client owns: people whose pictures are cut at its tier when they are read, or a stored shard."""

    people: People | None
    count: int
    upsampled: float
    """Share of the people who are smaller in their picture than the tier."""
    open_shard: Callable[[], Shard] | None = None
    notes: tuple[str, ...] = ()
    """Sentences for the user on the source, the same for all clients."""


@dataclass(frozen=True)
class DeviceSpec:
    threads: int
    gpu: bool
    """Use one, where the process is shown one."""
    bf16: bool

    def claim(self) -> torch.device:
        """The process's device, with its threads set. Ray shows a process only its own GPU."""
        torch.set_num_threads(self.threads)
        cv2.setNumThreads(self.threads)
        return torch.device("cuda" if self.gpu and torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class LossSpec:
    name: str
    switches: Switches
    """Of `mrkd`"""

    def build(self) -> Objective:
        if is_import_path(self.name):
            own: Objective = load_object(self.name, "objective.name")
            return own
        return build_objective(self.name, self.switches)


@dataclass(frozen=True)
class ClientSpec:
    """One client before it lives anywhere."""

    plan: ClientPlan
    data: ClientData
    model: ModelSpec
    loss: LossSpec
    sampling: Sampling
    own_share: float | None
    algorithm: Algorithm
    transforms: tuple[Transform, ...]
    training: LocalTraining
    device: DeviceSpec
    batch_size: int
    augmentation: Augmentation | None
    margins: Margins
    on_bad_image: OnBadImage
    cache_mb: float
    traced_round: int | None

    def build(self, place: Workplace | None = None) -> Client[Batch]:
        """The client, with the model of its process, or one of its own."""
        place = place or Workplace()
        device, plan = self.device.claim(), self.plan
        if place.model is None:
            place.model = self.model.build()
        model = place.model
        assert isinstance(model, nn.Module)
        if self.data.open_shard is not None:
            shard = self.data.open_shard()
        else:
            assert self.data.people is not None
            shard = cut_shard(self.data.people, plan.size, self.margins, self.cache_mb)
        task = PoseTask(
            Batches(shard, self.batch_size, self.augmentation, device, self.on_bad_image),
            levels=plan.levels,
            level_weights=plan.level_weights,
            sampling=self.sampling,
            own_share=self.own_share,
            objective=self.loss.build(),
            bf16=self.device.bf16,
        )
        return Client(
            name=plan.name,
            number=plan.number,
            tier=plan.tier,
            model=model,
            task=task,
            algorithm=self.algorithm,
            transforms=self.transforms,
            training=self.training,
            device=device,
            traced_round=self.traced_round,
        )
