"""SCAFFOLD (Karimireddy et al. 2020, algorithm 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import PARAMETERS, WEIGHTS, Cohort, LocalRule, Memory, Start, Vectors

if TYPE_CHECKING:
    from torch import nn

    from raf_ray.state import Layout

CONTROL = "control"
"""Both the server's c and a client's c_i: (num_weights,), zero at the start."""


@dataclass(frozen=True, config=PARAMETERS)
class Scaffold(FedAvg):
    """Local steps along g_i(y) - c_i + c, where c_i estimates the client's gradient and c the mean of all c_i.

    In the round's end c_i becomes, by `option`,

    - `I`: the gradient at the global weights over all of the client's people (another pass over them);
    - `II`: the mean of the raw gradients of the round's steps. Under plain SGD that is the paper's
      c_i - c + (x - y_i) / (K lr), whatever the layers' rates; under momentum or AdamW the paper's formula has no
      meaning and this one has.

    The server steps x <- x + server_lr mean(y_i - x) and c <- c + |S| / N mean(c_i' - c_i); the second mean is of
    equal weights, as in the paper, whatever `weighting` says of the first. The paper's guarantees are for plain SGD
    with equal weights: under AdamW the correction changes what its moments see, and none of them is proved.
    """

    sends: ClassVar[tuple[str, ...]] = (WEIGHTS, CONTROL)

    option: Literal["I", "II"] = "II"
    """How a client's control is found: one pass at the global weights (I), or from the round's own steps (II)."""
    server_lr: Annotated[float, Field(gt=0)] = 1.0
    """Server's step along the mean update (the paper's eta_g)."""

    def init_server(self, layout: Layout) -> Memory:
        # float64: c is a running sum over rounds of means that are exact in float64.
        return {CONTROL: np.zeros(layout.count("weights"), np.float64)}

    def init_client(self, layout: Layout) -> Memory:
        return {CONTROL: np.zeros(layout.count("weights"), np.float32)}

    def send(self, server: Memory) -> Vectors:
        return {CONTROL: server[CONTROL].astype(np.float32)}

    def local(self, start: Start) -> LocalRule:
        return Corrected(start, start.full_gradient() if self.option == "I" else None)

    def weight(self, vector: str, people: int) -> float:
        return 1.0 if vector == CONTROL else super().weight(vector, people)

    def server_step(
        self, weights: np.ndarray, mean: Vectors, server: Memory, cohort: Cohort
    ) -> tuple[np.ndarray, Memory]:
        control = server[CONTROL] + cohort.answered / cohort.clients * mean[CONTROL]
        return weights + self.server_lr * mean[WEIGHTS], {CONTROL: control}


class Corrected(LocalRule):
    """Adds c - c_i to every gradient, and learns the client's next c_i."""

    def __init__(self, start: Start, full_gradient: np.ndarray | None) -> None:
        import torch

        self._own = start.memory[CONTROL]
        self._layout = start.layout
        self._full_gradient = full_gradient
        self._parameters = start.layout.parameters(start.model)
        device = self._parameters[0].device
        correction = torch.from_numpy(start.vectors[CONTROL] - self._own).to(device)
        self._correction = start.layout.split(correction)
        self._raw_sum = torch.zeros_like(correction)
        self._raw_sums = start.layout.split(self._raw_sum)

    def gradients(self, model: nn.Module) -> None:
        for parameter, raw_sum, correction in zip(self._parameters, self._raw_sums, self._correction, strict=True):
            if parameter.grad is not None:
                raw_sum += parameter.grad
                parameter.grad += correction

    def finish(self, update: np.ndarray, steps: int) -> tuple[Vectors, Memory]:
        after = self._full_gradient
        if after is None:
            after = (self._raw_sum / steps).cpu().numpy()
        return {CONTROL: after - self._own}, {CONTROL: after}
