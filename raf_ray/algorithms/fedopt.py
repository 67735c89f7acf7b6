"""What FedAdagrad, FedAdam and FedYogi share (Reddi et al. 2021, "Adaptive federated optimization", algorithm 2)."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Cohort, Memory, Vectors

if TYPE_CHECKING:
    from raf_ray.state import Layout

FIRST, SECOND = "first_moment", "second_moment"
"""The server's Delta and v: (num_weights,) float64."""


@dataclass(frozen=True, config=PARAMETERS)
class FedOpt(FedAvg):
    """An adaptive server: the mean update d of a round takes the place of a gradient.

    m <- beta1 m + (1 - beta1) d, from m = 0; v <- the method's `second_moment`, from v = tau^2;
    w <- w + server_lr m / (sqrt(v) + tau). As in the paper, neither moment is corrected for its start.
    """

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of the mean update."""
    server_lr: Annotated[float, Field(gt=0)] = 0.01
    """Server's step (the paper's eta): about the most that a weight moves a round."""
    tau: Annotated[float, Field(gt=0)] = 1e-3
    """Degree of adaptivity: updates that are small beside it are scaled and no longer adapted to."""

    def init_server(self, layout: Layout) -> Memory:
        count = layout.count("weights")
        return {FIRST: np.zeros(count, np.float64), SECOND: np.full(count, self.tau**2)}

    @abstractmethod
    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """The next v, given the last one and the squares of m. (num_weights,) float64 all."""

    def server_step(
        self, weights: np.ndarray, mean: Vectors, server: Memory, cohort: Cohort
    ) -> tuple[np.ndarray, Memory]:
        m = self.beta1 * server[FIRST] + (1 - self.beta1) * mean[WEIGHTS]
        v = self.second_moment(server[SECOND], m * m)
        return weights + self.server_lr * m / (np.sqrt(v) + self.tau), {FIRST: m, SECOND: v}
