"""FedDyn (Acar et al. 2021, "Federated learning based on dynamic regularization", algorithm 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Cohort, LocalRule, Memory, Start, Vectors

if TYPE_CHECKING:
    from torch import nn

    from raf_ray.state import Layout

GRADIENT = "gradient"
"""A client's estimate g_k of its gradient where it ended: (num_weights,) float32, zero at the start."""
H = "h"
"""The server's, the mean of all g_k: (num_weights,) float64, zero at the start."""


@dataclass(frozen=True, config=PARAMETERS)
class FedDyn(FedAvg):
    """A client minimises F_k(w) - <g_k, w> + alpha / 2 |w - w_global|^2, then g_k <- g_k - alpha (w_k - w_global).

    The server steps h <- h - alpha |S| / N mean(w_k - w_global), w <- mean w_k - h / alpha. Where it comes to rest no
    client moves any more and h is zero, so the mean of the clients' gradients is too: the optimum of the mean loss,
    with `weighting` as its weights where all clients train in each round. With some of them a round the paper's
    weights are equal.

    The reported loss is F_k alone. The paper's g_k is exact where a client trains to its minimum; the fixed point
    needs no such thing.
    """

    alpha: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the regulariser; the paper tries 0.001, 0.01 and 0.1."""

    def init_server(self, layout: Layout) -> Memory:
        return {H: np.zeros(layout.count("weights"), np.float64)}

    def init_client(self, layout: Layout) -> Memory:
        return {GRADIENT: np.zeros(layout.count("weights"), np.float32)}

    def local(self, start: Start) -> LocalRule:
        return Dynamic(self.alpha, start)

    def server_step(
        self, weights: np.ndarray, mean: Vectors, server: Memory, cohort: Cohort
    ) -> tuple[np.ndarray, Memory]:
        h = server[H] - self.alpha * cohort.answered / cohort.clients * mean[WEIGHTS]
        return weights + mean[WEIGHTS] - h / self.alpha, {H: h}


class Dynamic(LocalRule):
    """Adds the regulariser's gradient, alpha (w - w_global) - g_k, and learns the client's next g_k."""

    def __init__(self, alpha: float, start: Start) -> None:
        import torch

        self._alpha = alpha
        self._own = start.memory[GRADIENT]
        self._parameters = start.layout.parameters(start.model)
        own = torch.from_numpy(self._own).to(self._parameters[0].device)
        # alpha (w - w_global) - g_k = alpha w + constant, where the constant is a copy: w moves.
        self._constants = [
            -(alpha * parameter.detach() + part)
            for parameter, part in zip(self._parameters, start.layout.split(own), strict=True)
        ]

    def gradients(self, model: nn.Module) -> None:
        for parameter, constant in zip(self._parameters, self._constants, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach(), alpha=self._alpha).add_(constant)

    def finish(self, update: np.ndarray, steps: int) -> tuple[Vectors, Memory]:
        return {}, {GRADIENT: self._own - np.float32(self._alpha) * update}
