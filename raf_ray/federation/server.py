"""The server's side of a round, whatever the method: what goes down, each client's weight, the step on the mean."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from raf_ray.aggregators.interface import Aggregator, OneByOne
from raf_ray.aggregators.mean import Mean
from raf_ray.algorithms.interface import WEIGHTS, Algorithm, Cohort, Memory, Vectors
from raf_ray.errors import RunError
from raf_ray.federation.aggregation import ExactSum, Weigher
from raf_ray.federation.collected import Collected, nothing_yet
from raf_ray.state import Layout
from raf_ray.training.exchange import Down, Up
from raf_ray.transforms.interface import PREFIX, Transform, own, placed

TRANSFORMS = 2**31 + 2
"""Stream of the seed that transforms draw from on the server; cohorts have 2**31."""
THREADS = min(8, os.cpu_count() or 1)
"""That updates are added by: most come when their clients have left the cores. Eight fill the memory's channels."""


@dataclass
class Server:
    """The global state and what method and transforms keep; `step` replaces both, never changes them in place."""

    algorithm: Algorithm
    layout: Layout
    clients: int
    """Clients of the federation"""
    state: np.ndarray
    """(num_bytes,) uint8"""
    memory: Memory
    version: int = 0
    """Rounds that made this state"""
    transforms: Sequence[Transform] = ()
    seed: int = 0
    """Of what transforms draw"""
    expected: float | None = None
    """Clients that a round trains, in expectation; None: all"""
    aggregator: Aggregator = field(default_factory=Mean)

    def down(self) -> Down:
        vectors = dict(self.algorithm.send(self.memory))
        for place, transform in enumerate(self.transforms):
            vectors |= placed(transform.send(own(self.memory, place)), place)
        return Down(self.version, self.state, vectors)

    def round(self, cohort: Sequence[tuple[str, int]]) -> RoundSum:
        """The sum of a round to come, of (client, people that it owns), in order; one for each update."""
        streams = not isinstance(self.aggregator, OneByOne)
        people = np.array([owned for _, owned in cohort], np.int64)
        return RoundSum(Weigher(self.algorithm, people, streams), dict(cohort))

    def step(self, done: RoundSum) -> None:
        """The method's server step on the weights; statistics take the mean, counters the clients' maximum.

        A round in which nobody answered changes nothing, but where a transform makes a step of it.
        Raises RunError where too few clients answered for the aggregator.
        """
        count, answered = self.layout.count("weights"), done.total.clients
        over_expected = any(transform.over_expected for transform in self.transforms)
        if not (answered or over_expected):
            self.version += 1
            return
        expected = float(self.clients) if self.expected is None else self.expected
        before, after = self.layout.floats(self.state), self.state.copy()
        mean, own_memories = self._transform(
            self._mean(done, count) if answered else {WEIGHTS: np.zeros(before.size)},
            Cohort(answered, self.clients, expected),
        )
        self.layout.part(self.algorithm.is_private).put(mean[WEIGHTS], 0.0)  # whatever noise or attacks put there
        floats = self.layout.floats(after)
        floats[count:] = before[count:] + mean[WEIGHTS][count:]
        floats[:count], memory = self.algorithm.server_step(
            before[:count],
            {**mean, WEIGHTS: mean[WEIGHTS][:count]},
            {name: kept for name, kept in self.memory.items() if not name.startswith(PREFIX)},
            Cohort(expected if over_expected else answered, self.clients, expected, done.discount),
        )
        if done.total.counters is not None:
            self.layout.counters(after)[:] = done.total.counters
        self.state, self.memory, self.version = after, {**memory, **own_memories}, self.version + 1

    def _mean(self, done: RoundSum, num_weights: int) -> Vectors:
        """What the aggregator makes of a round."""
        fault = self.aggregator.fault(done.total.clients)
        if fault:
            raise RunError(f"what round {self.version + 1} brought cannot be combined: {fault}")
        if isinstance(done.total, ExactSum):
            return done.total.mean()
        assert isinstance(self.aggregator, OneByOne)
        return done.total.combined(self.aggregator, done.weigher, done.people, num_weights)

    def _transform(self, mean: Vectors, cohort: Cohort) -> tuple[Vectors, Memory]:
        """What the method steps on in place of the mean, and what the transforms keep."""
        kept: Memory = {}
        for place, transform in enumerate(self.transforms):
            rng = np.random.default_rng([self.seed, 1 + self.version, TRANSFORMS, place])
            mean, now = transform.server(mean, own(self.memory, place), cohort, self.layout, rng)
            kept |= placed(now, place)
        return mean, kept


def init_memory(algorithm: Algorithm, transforms: Sequence[Transform], layout: Layout) -> Memory:
    """What method and transforms keep on the server before the first round."""
    memory = algorithm.init_server(layout)
    for place, transform in enumerate(transforms):
        memory |= placed(transform.init_server(layout), place)
    return memory


@dataclass
class RoundSum:
    """One round's updates: their exact sum, each vector with the weight that the method gives it, or one by one."""

    weigher: Weigher
    people: Mapping[str, int]
    """Client -> people it owns, in the order of the clients' numbers"""
    total: ExactSum | Collected = field(init=False)
    _shares: list[tuple[float, float]] = field(default_factory=list)
    """(weight without its discount, discount) of every update"""

    def __post_init__(self) -> None:
        self.total = nothing_yet(self.weigher, THREADS)

    def add(self, part: Up | ExactSum | Collected, clients: Sequence[str], discount: float = 1.0) -> None:
        """What some clients sent: one's update, or what several sent together, which has its discount already.

        Raises UpdateError where it cannot be summed.
        """
        if isinstance(part, Up):
            self.total.add(part, self.weigher.at(discount).shares(part, self.people[part.client]))
        else:
            self.total.merge(part)  # type: ignore[arg-type]  # a host makes the kind that the weigher asks for
        self._shares += [(self.weigher.share(WEIGHTS, self.people[client]), discount) for client in clients]

    @property
    def discount(self) -> float:
        """Weighted mean over the updates; 1 of none."""
        whole = math.fsum(share for share, _ in self._shares)
        return math.fsum(share * discount for share, discount in self._shares) / whole if whole else 1.0
