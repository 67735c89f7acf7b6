"""FedAvg (McMahan et al. 2017, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class FedAvg:
    """w_{t+1} = w_t + sum_k p_k (w_k - w_t), with p_k = n_k / n, or 1 / m where clients weigh the same.

    Equal weights are what the RAF authors' code uses.
    """

    weighting: Literal["people", "equal"] = "people"

    def client_shares(self, people: Sequence[int]) -> list[float]:
        """The p_k of a cohort whose clients own `people`; they sum to 1."""
        weights = [float(n) for n in people] if self.weighting == "people" else [1.0] * len(people)
        total = sum(weights)
        return [weight / total for weight in weights]

    def server_step(self, state: np.ndarray, mean_update: np.ndarray) -> np.ndarray:
        """(n,) float32 global state and (n,) float64 weighted mean of the updates -> the next global state."""
        return (state + mean_update).astype(np.float32)
