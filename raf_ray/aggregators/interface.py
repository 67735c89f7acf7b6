"""What an aggregator may change, whatever the FL method: how the updates of those who answered become one.

A client's update is several vectors: `weights`, which holds the weights' changes and behind them those of the norm
statistics, and a method's own, such as SCAFFOLD's `control`. What an aggregator gives stands where the mean stood: the
transforms' and the method's server steps are the same. Counters take the clients' maximum, whichever it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

ENTRIES = 2**18
"""Entries of all clients that are looked at in one go: 2 MB of float64, about a core's cache. A choice."""

Updates = Mapping[str, Sequence[np.ndarray]]
"""Vector -> of each client (n,) float32, not weighted, in the order of the clients' numbers; not to be changed."""


class Aggregator:
    """One aggregator; its parameters are its fields, and it keeps nothing else between calls.

    One that is no `OneByOne` is the weighted mean, which hosts make their parts of.
    """

    def fault(self, clients: int) -> str | None:
        """Why the updates of so many clients cannot be combined, and what to do; None where they can."""
        return None


class OneByOne(Aggregator, ABC):
    """An aggregator that needs every update by itself: hosts send each as it is, and the server holds them all."""

    @abstractmethod
    def combine(self, updates: Updates, shares: Mapping[str, np.ndarray], num_weights: int) -> dict[str, np.ndarray]:
        """Vector -> (n,) float64 in place of the mean, an array of its own.

        Args:
            shares: vector -> (clients,) float64, each one's weight by the method, up to a common factor.
            num_weights: entries of the vector `weights` that are weights; behind them are statistics.
        """


def chunks(size: int, clients: int) -> Iterator[slice]:
    """Parts of vectors (size,) of so many clients, so that beside them no more than `ENTRIES` are in memory."""
    step = max(1, ENTRIES // clients)
    return (slice(at, min(at + step, size)) for at in range(0, size, step))


def by_coordinate(vectors: Sequence[np.ndarray], begin: int, end: int) -> np.ndarray:
    """(n,) float64: of each coordinate the mean of its clients' values `begin` to `end` in ascending order."""
    found = np.empty(vectors[0].shape)
    for chunk in chunks(found.size, len(vectors)):
        block = np.stack([vector[chunk] for vector in vectors], axis=1)
        block.sort(axis=1)
        found[chunk] = block[:, begin:end].sum(axis=1, dtype=np.float64) / (end - begin)
    return found


def weighted_mean(vectors: Sequence[np.ndarray], factors: Sequence[float], total: float) -> np.ndarray:
    """(n,) float64: the sum of vectors times factors, over `total`, added in the clients' order."""
    found = np.zeros(vectors[0].shape)
    for chunk in chunks(found.size, 1):
        part = found[chunk]
        for vector, factor in zip(vectors, factors, strict=True):
            part += vector[chunk].astype(np.float64) * factor
        part /= total
    return found
