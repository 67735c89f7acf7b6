"""A client before it lives anywhere: plain records that build it in its process. No config travels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import torch
from torch import nn

from raf_ray.algorithms.interface import Algorithm
from raf_ray.attacks.interface import Attack
from raf_ray.data.augment import NO_MARGINS, Augmentation
from raf_ray.data.batches import Batch, Batches
from raf_ray.data.crop import OURS, CropRule, Margins
from raf_ray.data.encoded import OnBadImage
from raf_ray.data.people import People
from raf_ray.data.shard import Shard, cut_shard
from raf_ray.models import ModelSpec
from raf_ray.objectives import Objective, Switches
from raf_ray.objectives.levels import Sampling
from raf_ray.plugins import is_import_path, load_object
from raf_ray.resolution import Size
from raf_ray.state import Layout
from raf_ray.tasks import Task
from raf_ray.training.attacked import Attacked, mislabelled
from raf_ray.training.client import Client, LocalTraining
from raf_ray.training.clients import ClientData, ClientPlan
from raf_ray.training.exchange import Workplace
from raf_ray.training.pyramid import PyramidTask
from raf_ray.training.task import Batch as AnyBatch
from raf_ray.training.task import Task as ClientTask
from raf_ray.transforms.interface import Transform

MOST_SHAPES = 64
"""Shapes that a model is compiled for; others run as they are. A choice: far more than tiers and batches give."""


@dataclass(frozen=True)
class DeviceSpec:
    threads: int
    gpu: bool
    """Use one, where the process is shown one."""
    bf16: bool
    compiled: bool = False
    """Compile the model, once for each size of a batch"""

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

    def build(self, task: Task) -> Objective:
        if is_import_path(self.name):
            own: Objective = load_object(self.name, "objective.name")
            return own
        return task.objective(self.name, self.switches)


@dataclass(frozen=True)
class ClientSpec:
    """What all clients of a federation have in common before they live anywhere."""

    kind: Task
    """What is learnt"""
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
    on_bad_image: OnBadImage
    cache_mb: float
    traced: tuple[str, int] | None
    """Client and its round, from 0, that the profiler watches"""
    rule: CropRule = OURS
    """How people are cut from their pictures"""
    attack: Attack | None = None
    bad: frozenset[int] = frozenset()
    """Numbers of the clients that attack"""

    def build(self, plan: ClientPlan, data: ClientData, place: Workplace | None = None) -> Client[Batch]:
        """A client, with the model of its process, or one of its own."""
        device = self.device.claim()
        return self.client(plan, self.task(plan, data, device), device, place or Workplace())

    def client(
        self, plan: ClientPlan, task: ClientTask[AnyBatch], device: torch.device, place: Workplace
    ) -> Client[AnyBatch]:
        """A client with a task, and the model of its process."""
        if place.model is None:
            place.model = self.model.build()
            place.layout = Layout.of(place.model)
            if self.device.compiled:
                compile_model(place.model, device)
        model = place.model
        assert isinstance(model, nn.Module)
        attack = self._attack_of(plan)
        return Client(
            name=plan.name,
            number=plan.number,
            tier=plan.tier,
            model=model,
            task=task,
            algorithm=self.algorithm,
            transforms=self.transforms if attack is None else (*self.transforms, Attacked(attack)),
            training=self.training,
            device=device,
            known_layout=place.layout,
            traced_round=self.traced[1] if self.traced is not None and self.traced[0] == plan.name else None,
        )

    def _cut(self, people: People, plan: ClientPlan) -> Shard:
        return cut_shard(
            people, plan.size, margins_of(self.augmentation, plan.size, self.rule), self.cache_mb, rule=self.rule
        )

    def _attack_of(self, plan: ClientPlan) -> Attack | None:
        return self.attack if plan.number in self.bad else None

    def task(self, plan: ClientPlan, data: ClientData, device: torch.device) -> PyramidTask:
        """What a client learns from its people."""
        if data.open_shard is not None:
            shard, maps = data.open_shard(), None
        else:
            assert data.people is not None
            mapped = self.kind.maps(data.people)
            shard = self._cut(data.people, plan)
            maps = None if mapped is None else self._cut(mapped, plan)
        if (attack := self._attack_of(plan)) is not None:
            shard = mislabelled(shard, attack, self.training.seed, plan.number)
        return PyramidTask(
            Batches(
                shard,
                self.batch_size,
                self.augmentation,
                device,
                self.on_bad_image,
                maps=maps,
                counted=self.kind.counted,
            ),
            levels=plan.levels,
            level_weights=plan.level_weights,
            sampling=self.sampling,
            own_share=self.own_share,
            objective=self.loss.build(self.kind),
            bf16=self.device.bf16,
            kind=self.kind,
        )


@dataclass(frozen=True)
class OpenClients:
    """A `raf_ray.training.exchange.OpenClient`: makes client `number` of a federation in its process."""

    spec: ClientSpec
    plans: Sequence[ClientPlan]
    data: Sequence[ClientData]

    def __call__(self, number: int, place: Workplace) -> Client[Batch]:
        return self.spec.build(self.plans[number], self.data[number], place)


def compile_model(model: nn.Module, device: torch.device) -> None:
    """torch.compile in place, so that its entries keep their names; on a GPU with CUDA graphs.

    Each shape that is met is compiled by itself: levels of the tiers, times whole and last batches.
    """
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    model.compile(dynamic=False, mode="reduce-overhead" if device.type == "cuda" else None)


def margins_of(augmentation: Augmentation | None, size: Size, rule: CropRule = OURS) -> Margins:
    """What patches of a tier hold around a person, for the augmentation."""
    return NO_MARGINS if augmentation is None else augmentation.margins(rule.aspect(size))
