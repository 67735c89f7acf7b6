"""Norm thresholding on the server (Sun et al. 2019, "Can you really backdoor federated learning?").

The threshold follows the round: the median of its updates' norms (Andrew et al. 2021, "Differentially private learning
with adaptive clipping", whose quantile is the median too; here the server sees the norms and need not estimate it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.aggregators.interface import OneByOne, Updates, chunks, weighted_mean
from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS


@dataclass(frozen=True, config=PARAMETERS)
class NormClipping(OneByOne):
    """The weighted mean of updates u min(1, times x median norm / |u|), weighted as the method weighs.

    Weights, statistics and each of a method's own vectors are clipped by themselves, each at its own median. Unlike
    the transform `clip` the server does it, so no client can leave it out.
    """

    times: Annotated[float, Field(gt=0)] = 1.0
    """Largest L2 norm of an update, in medians of the round's norms."""

    def combine(self, updates: Updates, shares: Mapping[str, np.ndarray], num_weights: int) -> dict[str, np.ndarray]:
        found = {}
        for name, vectors in updates.items():
            edges = [0, num_weights] if name == WEIGHTS else [0]
            parts = [
                self._clipped_mean([vector[begin:end] for vector in vectors], shares[name])
                for begin, end in zip(edges, [*edges[1:], None], strict=True)
            ]
            found[name] = np.concatenate(parts)
        return found

    def _clipped_mean(self, vectors: Sequence[np.ndarray], shares: np.ndarray) -> np.ndarray:
        lengths = np.array([norm(vector) for vector in vectors])
        largest = self.times * np.median(lengths)
        factors = np.divide(largest, lengths, out=np.ones(len(lengths)), where=lengths > largest)
        return weighted_mean(vectors, (shares * factors).tolist(), float(shares.sum()))


def norm(vector: np.ndarray) -> float:
    """L2 norm, summed in float64, by numpy's own order and no threads'."""
    total = 0.0
    for chunk in chunks(vector.size, 1):
        part = vector[chunk].astype(np.float64)
        total += float(np.einsum("n,n->", part, part))
    return float(np.sqrt(total))
