"""Plain heatmap regression: the joint-weighted MSE that every objective here is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Loss(NamedTuple):
    """What an objective returns for one batch."""

    total: Tensor
    """Scalar to minimise."""
    gt: list[Tensor]
    """Detached scalar a level: the loss against that level's own target."""
    kd: list[Tensor]
    """Detached scalar a student level, from the second on: its distillation loss (empty without one)."""


def weighted_mse(heatmaps: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean over B, K, h, w of weight x squared difference (no 1/2).

    Args:
        heatmaps, targets: (B, K, h, w).
        weights: (B, K); a joint of weight 0 adds nothing and stays in the denominator.
    """
    return ((heatmaps - targets) ** 2 * weights[..., None, None]).mean()


def heatmap(
    heatmaps: Sequence[Tensor], targets: Sequence[Tensor], weights: Tensor, level_weights: Sequence[float]
) -> Loss:
    """The first level alone, whatever other levels were given: FedAvg's usual local objective."""
    loss = weighted_mse(heatmaps[0], targets[0], weights) * level_weights[0]
    return Loss(loss, [loss.detach()], [])
