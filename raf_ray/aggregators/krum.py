"""Krum and multi-Krum (Blanchard et al. 2017, "Machine learning with adversaries")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.aggregators.interface import OneByOne, Updates, chunks, weighted_mean
from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS


@dataclass(frozen=True, config=PARAMETERS)
class Krum(OneByOne):
    """The update of the client whose n - f - 2 nearest others are nearest, or the mean of the m best such.

    A client's score is the sum of squared L2 distances of its update of the weights to those of its n - f - 2 nearest
    others; ties go to the client first in order. Statistics and a method's own vectors are those of the same clients,
    and are not looked at. The chosen weigh the same, whatever people they own.
    """

    bad: Annotated[int, Field(ge=0)] = 1
    """Bad clients a round that it is to withstand (the paper's f); it needs 2 f + 3 clients a round."""
    keep: Annotated[int, Field(gt=0)] = 1
    """Clients whose mean is taken (the paper's m): 1 is Krum, more is multi-Krum."""

    def fault(self, clients: int) -> str | None:
        needed = 2 * self.bad + 3
        if clients < needed:
            return (
                f"with bad={self.bad} it needs {needed} clients a round and has {clients}; lower aggregation.krum.bad "
                "or train more clients a round"
            )
        if self.keep > clients - self.bad:
            return (
                f"keep={self.keep} of {clients} clients a round cannot leave bad={self.bad} out; lower "
                "aggregation.krum.keep"
            )
        return None

    def combine(self, updates: Updates, shares: Mapping[str, np.ndarray], num_weights: int) -> dict[str, np.ndarray]:
        chosen = self.chosen([vector[:num_weights] for vector in updates[WEIGHTS]])
        return {
            name: weighted_mean([vectors[i] for i in chosen], [1.0] * len(chosen), len(chosen))
            for name, vectors in updates.items()
        }

    def chosen(self, vectors: Sequence[np.ndarray]) -> list[int]:
        """Places of the clients to keep, in order."""
        distances = squared_distances(vectors)
        np.fill_diagonal(distances, np.inf)
        nearest = np.sort(distances, axis=1)[:, : len(vectors) - self.bad - 2]
        best = np.argsort(nearest.sum(axis=1), kind="stable")[: self.keep]
        return sorted(best.tolist())


def squared_distances(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """(clients, clients) float64 squared L2 distances.

    From differences: the faster |a|^2 + |b|^2 - 2 ab loses the small distances between large updates, and a matrix
    product's bits depend on the number of threads.
    """
    count = len(vectors)
    found = np.zeros((count, count))
    for chunk in chunks(vectors[0].size, count):
        block = np.stack([vector[chunk] for vector in vectors]).astype(np.float64)
        for i in range(count - 1):
            off = block[i + 1 :] - block[i]
            found[i, i + 1 :] += np.einsum("jn,jn->j", off, off)
    return found + found.T
