"""FedBuff (Nguyen et al. 2022, "Federated learning with buffered asynchronous aggregation", algorithm 1)."""

from __future__ import annotations

from math import ceil
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Cohort, Memory, Pace, Vectors

LARGEST_DEFAULT = 10
"""Updates in a buffer that is not given; the paper's K."""


@dataclass(frozen=True, config=PARAMETERS)
class FedBuff(FedAvg):
    """Clients are always at work, each from the newest state when it began; the server steps whenever `buffer` updates
    have come:

        w <- w + server_lr x sum_k p_k s(tau_k) (w_k - w at its start),    s(tau) = (1 + tau)^-staleness_exponent

    where tau is the update's staleness in steps, and p_k is FedAvg's, over the updates of the buffer: with
    algorithm.weighting=equal the paper's 1 / K. Discounts make the step smaller; they are not made up for. What norms
    gather takes the mean by p_k s(tau_k).

    A round is a server step, when it comes is said by the virtual clock, and so `devices` must be given. With a buffer
    of all clients it is FedAvg to the bit. The paper's differential privacy is left out.
    """

    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Clients at work at a time; null: all."""
    buffer: Annotated[int, Field(ge=1)] | None = None
    """Updates of a server step; null: half of concurrency, at most the paper's 10."""
    staleness_exponent: Annotated[float, Field(ge=0)] = 0.5
    """How fast old updates lose weight; the paper's. 0: not at all."""
    server_lr: Annotated[float, Field(gt=0)] = 1.0
    """Server's step (the paper's eta_g)."""

    def pace(self, clients: int) -> Pace:
        concurrency = clients if self.concurrency is None else self.concurrency
        return Pace(concurrency, self.buffer or min(LARGEST_DEFAULT, ceil(concurrency / 2)))

    def discount(self, staleness: int) -> float:
        return float((1 + staleness) ** -self.staleness_exponent)

    def server_step(
        self, weights: np.ndarray, mean: Vectors, server: Memory, cohort: Cohort
    ) -> tuple[np.ndarray, Memory]:
        step = mean[WEIGHTS]
        step *= self.server_lr * cohort.discount
        step += weights
        return step, server
