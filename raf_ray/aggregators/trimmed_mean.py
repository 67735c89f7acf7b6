"""The coordinate-wise trimmed mean (Yin et al. 2018, "Byzantine-robust distributed learning", definition 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.aggregators.interface import OneByOne, Updates, by_coordinate
from raf_ray.algorithms.interface import PARAMETERS

ROUNDING = 1e-9
"""A share times clients that is so near above a whole number is that number: 0.07 x 100 is not in binary."""


@dataclass(frozen=True, config=PARAMETERS)
class TrimmedMean(OneByOne):
    """Of each coordinate the mean without its largest and its smallest values.

    Their number is rounded up, so that what is cut at an end is never less than the share: bad clients of up to that
    share are outvoted. Each vector by itself, statistics as weights. Clients weigh the same, whatever people they own.
    """

    share: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    """Share of the values cut at each end, rounded up; at least the share of bad clients (the paper's beta)."""

    def _cut(self, clients: int) -> int:
        return math.ceil(self.share * clients - ROUNDING)

    def fault(self, clients: int) -> str | None:
        cut = self._cut(clients)
        if 2 * cut < clients:
            return None
        return (
            f"with share={self.share:g} it cuts {cut} values at each end and keeps none of {clients} clients' a round; "
            "lower aggregation.trimmed_mean.share or train more clients a round"
        )

    def combine(self, updates: Updates, shares: Mapping[str, np.ndarray], num_weights: int) -> dict[str, np.ndarray]:
        return {
            name: by_coordinate(vectors, cut := self._cut(len(vectors)), len(vectors) - cut)
            for name, vectors in updates.items()
        }
