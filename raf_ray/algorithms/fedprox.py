"""FedProx (Li et al. 2020, "Federated optimization in heterogeneous networks", eq. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import PARAMETERS, LocalRule, Start

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, config=PARAMETERS)
class FedProx(FedAvg):
    """A client minimises F_k(w) + mu / 2 |w - w_global|^2; the server averages as FedAvg does.

    The reported loss is F_k alone. With mu = 0 it is FedAvg to the bit.
    """

    mu: Annotated[float, Field(ge=0)] = 0.01
    """Strength of the pull to the global weights; the paper tries 0.001, 0.01, 0.1 and 1."""

    def local(self, start: Start) -> LocalRule:
        return Proximal(self.mu, start)


class Proximal(LocalRule):
    """Adds the term's gradient, mu (w - w_global), so that no graph is built for it."""

    def __init__(self, mu: float, start: Start) -> None:
        self._mu = mu
        self._parameters = start.layout.parameters(start.model)
        # A copy: the parameters themselves are about to move, and the term would always be zero.
        self._start = [parameter.detach().clone() for parameter in self._parameters]

    def gradients(self, model: nn.Module) -> None:
        if not self._mu:
            return
        for parameter, start in zip(self._parameters, self._start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self._mu)
