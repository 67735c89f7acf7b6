"""All clients' people in one place: one client whose batches are those of each owner's people, in mixed order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic

import numpy as np
from torch import nn

from raf_ray.data.batches import Batch as People
from raf_ray.training.client import Client
from raf_ray.training.clients import ClientPlan
from raf_ray.training.exchange import Workplace
from raf_ray.training.spec import OpenClients
from raf_ray.training.task import Batch, Step, Task


@dataclass(frozen=True)
class PooledTask(Generic[Batch]):
    """The tasks of several owners as one. A batch, (owner's place, its batch), is of one owner's people."""

    tasks: Sequence[Task[Batch]]
    batch_size: int

    def __len__(self) -> int:
        return sum(map(len, self.tasks))

    @property
    def bad_pictures(self) -> int:
        return sum(task.bad_pictures for task in self.tasks)

    @property
    def cached_mb(self) -> float:
        return sum(task.cached_mb for task in self.tasks)

    def epoch(self, rng: np.random.Generator) -> Iterator[tuple[int, Batch]]:
        """Every owner's epoch, their batches in one random order."""
        counts = [-(-len(task) // self.batch_size) for task in self.tasks]
        order = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        # A stream each: an owner may make its next batch on a thread while another's trains.
        epochs = [task.epoch(own) for task, own in zip(self.tasks, rng.spawn(len(self.tasks)), strict=True)]
        for owner in order.tolist():
            batch = next(epochs[owner], None)
            if batch is not None:  # pictures that cannot be read may leave it fewer
                yield owner, batch

    def step(self, model: nn.Module, batch: tuple[int, Batch], rng: np.random.Generator) -> Step:
        owner, own = batch
        return self.tasks[owner].step(model, own, rng)

    def fault(self, rng: np.random.Generator) -> str | None:
        return next((fault for task in self.tasks if (fault := task.fault(rng))), None)


@dataclass(frozen=True)
class OpenPool:
    """A `raf_ray.training.exchange.OpenClient`: the one client of a federation whose people are in one place."""

    owners: OpenClients
    plan: ClientPlan

    def __call__(self, number: int, place: Workplace) -> Client[tuple[int, People]]:
        spec, data = self.owners.spec, self.owners.data
        spec = replace(spec, cache_mb=spec.cache_mb / len(data))
        device = spec.device.claim()
        tasks = [spec.task(plan, own, device) for plan, own in zip(self.owners.plans, data, strict=True)]
        return spec.client(self.plan, PooledTask(tasks, spec.batch_size), device, place)
