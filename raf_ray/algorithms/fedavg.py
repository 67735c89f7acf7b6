"""FedAvg (McMahan et al. 2017, algorithm 1)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Algorithm, Cohort, Memory, Vectors


@dataclass(frozen=True, config=PARAMETERS)
class FedAvg(Algorithm):
    """w <- w + sum_k p_k (w_k - w), with p_k = n_k / n, or 1 / m where clients weigh the same.

    Equal weights are what the RAF authors' code uses.
    """

    weighting: Literal["people", "equal"] = "people"
    """A client weighs by its number of people, or each the same (the RAF authors' code)."""

    def weight(self, vector: str, people: int) -> float:
        return float(people) if self.weighting == "people" else 1.0

    def server_step(
        self, weights: np.ndarray, mean: Vectors, server: Memory, cohort: Cohort
    ) -> tuple[np.ndarray, Memory]:
        step = mean[WEIGHTS]
        step += weights  # in place: nobody else has it
        return step, server
