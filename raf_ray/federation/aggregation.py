"""The exact sum over clients: weighted vectors are rounded once to int64 fixed point, then integers are added.

Float addition depends on the order, integer addition does not. So the mean is the same whoever arrives first
and whoever shares an actor, and memory does not grow with the number of clients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from raf_ray.algorithms.interface import Algorithm
from raf_ray.errors import RunError
from raf_ray.training.exchange import Up

FRACTION_BITS = 40
"""Resolution 2^-40 (9e-13): finer than float32's own at any weight above 1e-5; range +- 8.4 million."""
SCALE = float(2**FRACTION_BITS)
CHUNK = 2**15
"""Entries that are converted at a time, so that what is between float32 and int64 stays in a core's cache."""
PARALLEL = 2**20
"""Entries from which on several threads are worth their start."""


class UpdateError(RunError):
    """An update that cannot be summed: not finite, or too large for fixed point."""


def check_summable(up: Up, weights: Mapping[str, float]) -> None:
    """Raise UpdateError where `ExactSum.add` would."""
    for name, vector in up.vectors.items():
        _largest(vector, weights[name])


def _largest(vector: np.ndarray, weight: float) -> float:
    """The largest magnitude of `vector` times `weight`. Raises UpdateError where fixed point cannot hold it."""
    # The larger of maximum and -minimum, NaN if there is one: no copy of the vector is made for it.
    largest = float(np.maximum(vector.max(), -vector.min())) * weight if vector.size else 0.0
    if not np.isfinite(largest):
        raise UpdateError("the update holds NaN or Inf; lower optimizer.lr or set optimizer.clip")
    if largest * SCALE >= 2.0**62:
        raise UpdateError(f"the update holds a value of {largest:.3g}, too large to sum exactly")
    return largest


def to_fixed_point(vector: np.ndarray, weight: float = 1.0) -> tuple[np.ndarray, int]:
    """(n,) float32 times `weight` -> (n,) int64 in units of 2^-40, and the largest magnitude among them.

    The weight enters the one float64 multiplication, so it costs the vector no bits.
    Raises UpdateError for NaN, Inf (numpy would cast them silently) and for values beyond int64.
    """
    largest, total = _largest(vector, weight), np.zeros(vector.shape, np.int64)
    _add_to(total, vector, weight, 1)
    return total, _bound(largest)


def _bound(largest: float) -> int:
    return int(largest * SCALE) + 1


def _add_to(total: np.ndarray, vector: np.ndarray, weight: float, threads: int) -> None:
    """Add (n,) float32 times `weight` to (n,) int64, in place."""

    def add(chunks: Iterator[slice]) -> None:
        floats, integers = np.empty(CHUNK), np.empty(CHUNK, np.int64)
        for chunk in chunks:
            part = total[chunk]
            fixed, whole = floats[: part.size], integers[: part.size]
            np.multiply(vector[chunk], weight * SCALE, out=fixed, dtype=np.float64)
            np.rint(fixed, out=fixed)
            np.copyto(whole, fixed, casting="unsafe")
            part += whole

    _share(vector.size, threads, add)


def _share(size: int, threads: int, work: Callable[[Iterator[slice]], None]) -> None:
    """Deal the chunks of a vector to threads: numpy lets others run while it works on one."""
    count = threads if size >= PARALLEL else 1
    edges = [size * i // count for i in range(count + 1)]

    def chunks(begin: int, end: int) -> Iterator[slice]:
        return (slice(at, min(at + CHUNK, end)) for at in range(begin, end, CHUNK))

    if count == 1:
        work(chunks(0, size))
    else:
        list(_pool(threads).map(work, map(chunks, edges[:-1], edges[1:])))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


@dataclass
class Weigher:
    """Each client's part of a round's mean, were the whole cohort to answer."""

    algorithm: Algorithm
    people: np.ndarray
    """(clients,) int64, the people that each of the cohort owns"""
    streams: bool = True
    """Whether hosts may add up what their clients send; else each update goes up as it is"""
    discount: float = 1.0
    """Of the shares, for updates from an older state"""
    _whole: dict[str, float] = field(default_factory=dict)

    def share(self, vector: str, people: int) -> float:
        """Of a client that owns so many `people`, in that vector's mean."""
        if vector not in self._whole:
            self._whole[vector] = math.fsum(self.algorithm.weight(vector, int(n)) for n in self.people)
        return self.discount * (self.algorithm.weight(vector, people) / self._whole[vector])

    def at(self, discount: float) -> Weigher:
        """The same for updates of that discount."""
        return replace(self, discount=discount)

    def shares(self, up: Up, people: int) -> dict[str, float]:
        """Of a client that owns so many `people`, in the mean of each vector that it sent."""
        return {name: self.share(name, people) for name in up.vectors}


@dataclass
class FixedSum:
    """A running weighted sum of vectors of one name."""

    total: np.ndarray
    """(n,) int64 in units of 2^-40; int32 where it was `narrowed`"""
    weight: int
    """Sum of the weights, in the same units"""
    bound: int
    """No entry of `total` is larger than this."""

    def add(self, vector: np.ndarray, weight: float, largest: float, threads: int) -> None:
        """Add `vector` times `weight`, of which no entry is larger than `largest`."""
        self._grow(round(weight * SCALE), _bound(largest))
        _add_to(self.total, vector, weight, threads)

    def merge(self, other: FixedSum, threads: int) -> None:
        self._grow(other.weight, other.bound)

        def add(chunks: Iterator[slice]) -> None:
            for chunk in chunks:
                self.total[chunk] += other.total[chunk]

        _share(self.total.size, threads, add)

    def _grow(self, weight: int, bound: int) -> None:
        if self.bound + bound >= 2**63:
            raise UpdateError("the sum of the clients' updates overflows 64-bit fixed point")
        self.weight += weight
        self.bound += bound

    def copy(self) -> FixedSum:
        """A sum of its own, in int64."""
        return FixedSum(self.total.astype(np.int64), self.weight, self.bound)

    def narrowed(self) -> FixedSum:
        """The same numbers in half the bytes, where they fit: sums of small updates, or of a small part of a cohort."""
        return self if self.bound >= 2**31 else FixedSum(self.total.astype(np.int32), self.weight, self.bound)

    def mean(self, threads: int) -> np.ndarray:
        """(n,) float64"""
        found = np.empty(self.total.shape)

        def divide(chunks: Iterator[slice]) -> None:
            for chunk in chunks:
                np.divide(self.total[chunk], self.weight, out=found[chunk])

        _share(found.size, threads, divide)
        return found


@dataclass
class ExactSum:
    """A running sum of what clients sent; it is itself what several clients of one actor send."""

    sums: dict[str, FixedSum] = field(default_factory=dict)
    counters: np.ndarray | None = None
    """Entrywise maximum of the clients' counters: they count batches, and an average of counts means nothing."""
    clients: int = 0
    threads: int = 1
    """That large vectors are added by"""

    def add(self, up: Up, weights: Mapping[str, float]) -> None:
        """Add one client's vectors, each with its weight; weights of a name add up to about 1 over a cohort.

        Raises UpdateError where a vector cannot be summed; the sum is then as it was.
        """
        largest = {name: _largest(vector, weights[name]) for name, vector in up.vectors.items()}
        if self.counters is None:
            self.sums = {name: FixedSum(np.zeros(vector.shape, np.int64), 0, 0) for name, vector in up.vectors.items()}
        for name, vector in up.vectors.items():
            self.sums[name].add(vector, weights[name], largest[name], self.threads)
        self._count(up.counters, 1)

    def merge(self, other: ExactSum) -> None:
        """Add the sum of several clients."""
        if other.counters is None:
            return
        if self.counters is None:
            self.sums = {name: part.copy() for name, part in other.sums.items()}
        else:
            for name, part in other.sums.items():
                self.sums[name].merge(part, self.threads)
        self._count(other.counters, other.clients)

    def narrowed(self) -> ExactSum:
        """The same, as it goes over a wire; only to be merged into another."""
        return ExactSum({name: part.narrowed() for name, part in self.sums.items()}, self.counters, self.clients)

    def mean(self) -> dict[str, np.ndarray]:
        """Name -> (n,) float64 weighted mean of those who answered, whoever they were."""
        return {name: part.mean(self.threads) for name, part in self.sums.items()}

    def _count(self, counters: np.ndarray, clients: int) -> None:
        self.counters = counters.copy() if self.counters is None else np.maximum(self.counters, counters)
        self.clients += clients
