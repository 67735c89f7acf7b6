"""Where an attack gets at a client: the labels of its people, and what it sends, after all transforms."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from raf_ray.algorithms.interface import Memory, Vectors
from raf_ray.attacks.interface import Attack
from raf_ray.data.shard import Shard
from raf_ray.state import Layout
from raf_ray.transforms.interface import Transform

LABELS = 2**31 + 4
"""Stream of the seed that bad clients' labels are drawn from, beside those of the server."""


@dataclass(frozen=True)
class Attacked(Transform):
    """The last thing that is done to a bad client's update before it is sent."""

    attack: Attack

    def client(
        self, vectors: Vectors, memory: Memory, sent: Vectors, layout: Layout, rng: np.random.Generator
    ) -> tuple[Vectors, Memory]:
        return self.attack.update(vectors, layout.count("weights"), rng), memory


def mislabelled(shard: Shard, attack: Attack, seed: int, number: int) -> Shard:
    """The same people with the labels that a bad client trains on; the same ones whenever it is opened."""
    rng = np.random.default_rng([seed, 0, LABELS, number])
    joints, visibility = attack.labels(shard.joints, shard.visibility, rng)
    return replace(shard, joints=joints, visibility=visibility)
