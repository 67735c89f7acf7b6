"""What the process of a client or of the scorer is sent: plain records that build it there. No config travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from torch import nn

from raf_ray.algorithms.interface import Algorithm
from raf_ray.data.augment import Augmentation
from raf_ray.data.batches import Batches
from raf_ray.data.encoded import OnBadImage
from raf_ray.data.people import People
from raf_ray.data.shard import Margins, cut_shard
from raf_ray.errors import InputError
from raf_ray.models import build_model
from raf_ray.objectives import Objective, build_objective
from raf_ray.objectives.levels import Sampling
from raf_ray.plans import ClientPlan
from raf_ray.plugins import is_import_path, load_object
from raf_ray.scoring import CutShard, Decode, Metric, Scorer
from raf_ray.sources import ClientData
from raf_ray.training.client import Client, LocalTraining
from raf_ray.training.pose import PoseTask


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
class ModelSpec:
    name: str
    depth: int
    joints: int

    def build(self) -> nn.Module:
        """A model with fresh weights. Raises InputError where one's own gives none."""
        if not is_import_path(self.name):
            return build_model(self.name, self.joints, self.depth)
        model = load_object(self.name, "model.name")(self.joints)
        if not isinstance(model, nn.Module):
            raise InputError(f"model.name={self.name} returned {type(model).__name__}, not a torch.nn.Module")
        return model


@dataclass(frozen=True)
class LossSpec:
    name: str
    switches: Mapping[str, Any]
    """Of `raf_ray.objectives.mrkd`"""

    def build(self) -> Objective:
        if is_import_path(self.name):
            return load_object(self.name, "objective.name")
        return build_objective(self.name, **self.switches)


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
    training: LocalTraining
    device: DeviceSpec
    batch_size: int
    augmentation: Augmentation | None
    margins: Margins
    on_bad_image: OnBadImage
    cache_mb: float
    traced_round: int | None

    def build(self) -> Client:
        device, plan = self.device.claim(), self.plan
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
            model=self.model.build(),
            task=task,
            algorithm=self.algorithm,
            training=self.training,
            device=device,
            traced_round=self.traced_round,
        )


@dataclass(frozen=True)
class ScorerSpec:
    """The scorer before it lives anywhere."""

    model: ModelSpec
    people: Mapping[str, People]
    """Split -> its people"""
    metrics: Mapping[str, Metric]
    decode: Decode
    flip_test: bool
    batch_size: int
    device: DeviceSpec
    on_bad_image: OnBadImage
    cache_mb: float
    cut: CutShard

    def build(self) -> Scorer:
        return Scorer(
            model=self.model.build(),
            people=self.people,
            metrics=self.metrics,
            decode=self.decode,
            flip_test=self.flip_test,
            batch_size=self.batch_size,
            device=self.device.claim(),
            bf16=self.device.bf16,
            on_bad_image=self.on_bad_image,
            cache_mb=self.cache_mb,
            cut=self.cut,
        )
