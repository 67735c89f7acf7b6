"""A request that was checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from raf_ray.config.tree import Config
from raf_ray.data.people import People
from raf_ray.data.skeletons import Skeleton
from raf_ray.devices.profiles import Fleet
from raf_ray.evaluation.scorer import CutShard
from raf_ray.request.plans import trainers
from raf_ray.request.task import task_of
from raf_ray.state import Layout
from raf_ray.training.clients import Owned, Plans


@dataclass(frozen=True, eq=False)
class Prepared:
    """A checked request, ready to run. It is equal to itself alone."""

    config: Config
    plans: Plans
    data: Owned
    held_out: dict[str, People]
    """`val`, and `test` unless the run is scored on `val` to the end"""
    layout: Layout
    initial: np.ndarray
    """(num_bytes,) uint8 initial global state"""
    cut: CutShard | None = None
    """How the scorer gets its crops; None: from the pictures"""
    notes: tuple[str, ...] = ()
    """Sentences for the user: what a checkpoint did not fill ..."""
    macs: np.ndarray | None = None
    """(N,) expected forward MACs of each client's round; None: they could not be counted"""
    train_sample: Mapping[str, People] = field(default_factory=dict)
    """`train` -> those of the clients' own people that are scored too, where asked for"""
    fleet: Fleet | None = None
    """The clients' devices, where `devices` asks for them"""

    @property
    def trainers(self) -> Plans:
        """Who trains: the clients, or the one that has all their people."""
        return trainers(self.config, self.plans)

    @property
    def scored(self) -> dict[str, People]:
        """Split -> people that the run's models are scored on"""
        return {**self.held_out, **self.train_sample}

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the model's outputs are of"""
        return task_of(self.config).outputs(self.skeleton)

    @property
    def labels(self) -> dict[str, Any]:
        """What the run's model is saved with, beside the names of its outputs"""
        return {"skeleton": asdict(self.skeleton), "category_id": self.held_out["val"].category_id}

    @property
    def skeleton(self) -> Skeleton:
        return self.held_out["val"].skeleton
