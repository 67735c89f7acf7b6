"""MOON (Li et al. 2021, "Model-contrastive federated learning", eq. 3 and algorithm 1)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from raf_ray.algorithms.fedavg import FedAvg
from raf_ray.algorithms.interface import PARAMETERS, LocalRule, Memory, Setting, Start, Vectors

if TYPE_CHECKING:
    from torch import Tensor, nn

PREVIOUS = "previous"
"""A client's whole state after its last round, (num_bytes,) uint8"""


@dataclass(frozen=True, config=PARAMETERS)
class Moon(FedAvg):
    """A client adds to its loss, for each of its people,

        mu x -log( exp(sim(z, z_glob) / tau) / (exp(sim(z, z_glob) / tau) + exp(sim(z, z_prev) / tau)) )

    where z, z_glob and z_prev are the person's features by the model that trains, by the global one and by the client's
    own after its last round, and sim is the cosine. So it is drawn to the global features and away from its old ones.

    The paper contrasts the output of a projection head on a classifier's features. Ours is what the heatmap head sees,
    averaged over the picture: the model's `features(images)`, (B, C, h, w) -> (B, C), of each person at the highest
    level drawn. The two other models cost a forward pass each. In a client's first round z_prev is z_glob, whose
    gradient is zero; with mu = 0 it is FedAvg to the bit.
    """

    mu: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the contrast: a choice, for heatmap losses of about 0.01; the paper's 0.1 to 10 are for losses of 1."""
    tau: Annotated[float, Field(gt=0)] = 0.5
    """Temperature; the paper's."""

    def requires(self, setting: Setting) -> str | None:
        if not setting.has_features:
            return (
                "the model gives no features to contrast; choose a built-in model, or give yours a method "
                "features(images) -> (B, C, h, w) and `head_name`, the name of the module that makes heatmaps of them"
            )
        if setting.compiled:
            return (
                "its features are taken on the model's way, which a compiled model has not; set resources.compile=false"
            )
        return None

    def local(self, start: Start) -> LocalRule:
        return Contrast(self.mu, self.tau, start) if self.mu else LocalRule()


class Contrast(LocalRule):
    """Holds the two other models for a round, and catches the features of the one that trains."""

    def __init__(self, mu: float, tau: float, start: Start) -> None:
        assert start.head is not None
        self._mu, self._tau = mu, tau
        self._model, self._layout = start.model, start.layout
        self._features: list[Tensor] = []
        # Copies: the model itself is about to move. `deepcopy` before the hook, which they must not have.
        self._global, self._previous = (copy.deepcopy(start.model).eval() for _ in range(2))
        if PREVIOUS in start.memory:
            start.layout.write(start.memory[PREVIOUS], self._previous)
        self._hook = start.head.register_forward_pre_hook(lambda head, inputs: self._features.append(inputs[0]))

    def loss(self, model: nn.Module, images: Tensor, loss: Tensor) -> Tensor:
        import torch

        own = _pooled(self._features[0])  # of the highest level, which goes first
        self._features.clear()
        with torch.no_grad():
            shared, previous = (_pooled(other.features(images)) for other in (self._global, self._previous))  # type: ignore[operator]
        return loss + self._mu * contrast(own, shared, previous, self._tau)

    def finish(self, update: np.ndarray, steps: int) -> tuple[Vectors, Memory]:
        return {}, {PREVIOUS: self._layout.read(self._model)}

    def close(self) -> None:
        self._hook.remove()


def contrast(own: Tensor, shared: Tensor, previous: Tensor, tau: float) -> Tensor:
    """Mean over people of eq. 3's l_con, of features (B, C)."""
    import torch
    from torch.nn import functional as F

    similar = torch.stack([F.cosine_similarity(own, other, dim=1) for other in (shared, previous)], dim=1) / tau
    return F.cross_entropy(similar, torch.zeros(len(own), dtype=torch.long, device=own.device))


def _pooled(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C), the mean over places."""
    return features.float().mean(dim=(2, 3))
