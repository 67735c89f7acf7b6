"""The scorer before it lives anywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from raf_ray.data.annotations.detections import Detections
from raf_ray.data.encoded import OnBadImage
from raf_ray.data.people import People
from raf_ray.evaluation.scorer import CutShard, Scorer, Upsample
from raf_ray.models import ModelSpec
from raf_ray.resolution import Size
from raf_ray.state import Entry
from raf_ray.tasks import Task
from raf_ray.tasks.interface import Decode
from raf_ray.training.spec import DeviceSpec

THREADS = min(4, os.cpu_count() or 1)
"""Cores that a scorer takes: the last scoring has all to itself, those before it leave them to the clients (it is
`nice`). A choice: each holds a batch and what the model makes of it."""


@dataclass(frozen=True)
class ScorerSpec:
    """The scorer before it lives anywhere."""

    task: Task
    model: ModelSpec
    people: Mapping[str, People]
    """Split -> its people"""
    metrics: Mapping[str, str]
    decode: Decode
    flip_test: bool
    batch_size: int
    device: DeviceSpec
    on_bad_image: OnBadImage
    cache_mb: float
    cut: CutShard
    is_private: Callable[[Entry], bool]
    upsample: Upsample
    upsampled: Mapping[Size, Size]
    detected: Mapping[str, Detections]
    """Split -> detected boxes to score beside its people's own"""

    def build(self, gpu: bool = True) -> Scorer:
        """`gpu`: the process may use one, where the spec wants it."""
        device = replace(self.device, gpu=self.device.gpu and gpu).claim()
        return Scorer(
            model=self.model.build(),
            people=self.people,
            metrics=self.metrics,
            decode=self.decode,
            flip_test=self.flip_test,
            batch_size=self.batch_size,
            device=device,
            bf16=self.device.bf16,
            on_bad_image=self.on_bad_image,
            cache_mb=self.cache_mb,
            cut=self.cut,
            is_private=self.is_private,
            upsample=self.upsample,
            upsampled=self.upsampled,
            detected=self.detected,
            task=self.task,
            threads=max(1, THREADS // self.device.threads) if device.type == "cpu" else 1,
        )
