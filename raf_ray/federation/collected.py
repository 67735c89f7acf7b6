"""Updates as they are, for what needs each by itself: the place of `ExactSum` where nothing may be added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from raf_ray.aggregators.interface import OneByOne
from raf_ray.federation.aggregation import ExactSum, UpdateError, Weigher
from raf_ray.training.exchange import Up


@dataclass
class Collected:
    """What clients sent, in the order in which it came; it is itself what several clients of one actor send."""

    ups: list[Up] = field(default_factory=list)

    def add(self, up: Up, weights: Mapping[str, float]) -> None:
        """Keep one client's vectors. Raises UpdateError where one is not finite: nothing can be ranked by it."""
        for vector in up.vectors.values():
            if not np.isfinite(vector).all():
                raise UpdateError("the update holds NaN or Inf; lower optimizer.lr or set optimizer.clip")
        self.ups.append(up)

    def merge(self, other: Collected) -> None:
        self.ups += other.ups

    def narrowed(self) -> Collected:
        """The same, as it goes over a wire: float32, as it came."""
        return self

    @property
    def clients(self) -> int:
        return len(self.ups)

    @property
    def counters(self) -> np.ndarray | None:
        """Entrywise maximum of the clients' counters; None of no client."""
        return np.maximum.reduce([up.counters for up in self.ups]) if self.ups else None

    def combined(
        self, aggregator: OneByOne, weigher: Weigher, people: Mapping[str, int], num_weights: int
    ) -> dict[str, np.ndarray]:
        """Vector -> (n,) float64, whatever the order in which the updates came.

        Args:
            people: client -> people it owns, in the order of the clients' numbers.
        """
        came = {up.client: up for up in self.ups}
        ups = [came[client] for client in people if client in came]
        names = list(ups[0].vectors)
        shares = {name: np.array([weigher.share(name, people[up.client]) for up in ups]) for name in names}
        return aggregator.combine({name: _of_each(ups, name) for name in names}, shares, num_weights)


def _of_each(ups: Sequence[Up], name: str) -> list[np.ndarray]:
    return [up.vectors[name] for up in ups]


def nothing_yet(weigher: Weigher, threads: int = 1) -> ExactSum | Collected:
    """What a round's updates, or a host's, are added to."""
    return ExactSum(threads=threads) if weigher.streams else Collected()
