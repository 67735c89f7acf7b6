"""FedAvgM (Hsu et al. 2019, "Measuring the effects of non-identical data distribution", section 4.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Cohort, Memory, Vectors

if TYPE_CHECKING:
    from raf_ray.state import Layout

VELOCITY = "velocity"


@dataclass(frozen=True, config=PARAMETERS)
class FedAvgM(FedAvg):
    """The server steps with momentum: v <- beta v + mean update, w <- w + server_lr v, v zero at the start.

    With beta = 0 and server_lr = 1 it is FedAvg to the bit.
    """

    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum; the paper tries 0, 0.7, 0.9, 0.97, 0.99 and 0.997."""
    server_lr: Annotated[float, Field(gt=0)] = 1.0
    """Server's step along the velocity. At 1 a constant update moves the weights 1 / (1 - beta) times as far."""

    def init_server(self, layout: Layout) -> Memory:
        return {VELOCITY: np.zeros(layout.count("weights"), np.float64)}

    def server_step(
        self, weights: np.ndarray, mean: Vectors, server: Memory, cohort: Cohort
    ) -> tuple[np.ndarray, Memory]:
        velocity = self.beta * server[VELOCITY] + mean[WEIGHTS]
        return weights + self.server_lr * velocity, {VELOCITY: velocity}
