"""The coordinate-wise median (Yin et al. 2018, "Byzantine-robust distributed learning", definition 1)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic.dataclasses import dataclass

from raf_ray.aggregators.interface import OneByOne, Updates, by_coordinate
from raf_ray.algorithms.interface import PARAMETERS


@dataclass(frozen=True, config=PARAMETERS)
class Median(OneByOne):
    """Of each coordinate the clients' middle value, or the mean of the two in the middle.

    Each vector by itself, statistics as weights. Clients weigh the same, whatever people they own.
    """

    def combine(self, updates: Updates, shares: Mapping[str, np.ndarray], num_weights: int) -> dict[str, np.ndarray]:
        return {
            name: by_coordinate(vectors, (len(vectors) - 1) // 2, len(vectors) // 2 + 1)
            for name, vectors in updates.items()
        }
