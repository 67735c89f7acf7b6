"""Plain heatmap regression: the joint-weighted MSE that every objective here is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Loss(NamedTuple):
    """What an objective returns for one batch."""

    total: Tensor
    """Scalar to minimise."""
    gt: list[Tensor]
    """Detached scalar a level: the loss against that level's own target."""
    kd: list[Tensor]
    """Detached scalar a student level, from the second on: its distillation loss (empty without one)."""


class _WeightedMSE(torch.autograd.Function):
    """What `weighted_mse` returns, with a gradient for the heatmaps alone: one product, in the heatmaps' own memory
    order, where autograd makes a pass over the maps for each operation."""

    @staticmethod
    def forward(ctx: Any, heatmaps: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        difference = heatmaps - targets
        weighted = difference * weights[..., None, None]
        ctx.save_for_backward(weighted)
        return difference.mul_(weighted).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weighted,) = ctx.saved_tensors
        return weighted * (2 * gradient / weighted.numel()), None, None


def weighted_mse(heatmaps: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean over B, K, h, w of weight x squared difference (no 1/2); differentiable once, in the heatmaps.

    Args:
        heatmaps, targets: (B, K, h, w).
        weights: (B, K); a joint of weight 0 adds nothing and stays in the denominator.
    """
    loss: Tensor = _WeightedMSE.apply(heatmaps, targets, weights)
    return loss


def heatmap(
    heatmaps: Sequence[Tensor], targets: Sequence[Tensor], weights: Tensor, level_weights: Sequence[float]
) -> Loss:
    """The first level alone, whatever other levels were given: FedAvg's usual local objective."""
    loss = weighted_mse(heatmaps[0], targets[0], weights) * level_weights[0]
    return Loss(loss, [loss.detach()], [])
