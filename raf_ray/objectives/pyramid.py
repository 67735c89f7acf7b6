"""RAF's frame around any two losses (arXiv 2507.23461): each level against its target, all but one taught."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from torch import Tensor

from raf_ray.objectives.heatmap import Loss

Teacher = Literal["previous", "highest", "ensemble"]
Output = TypeVar("Output")


def teachers_of(teacher: Teacher, higher: Sequence[Output]) -> Sequence[Output]:
    """Of the levels above a student, highest first, those that teach it."""
    return {"previous": higher[-1:], "highest": higher[:1], "ensemble": higher}[teacher]


def over_levels(
    count: int,
    ground_truth: Callable[[int], Tensor],
    distilled: Callable[[int], Tensor],
    level_weights: Sequence[float],
    *,
    alpha: float,
    weighting: Literal["convex", "additive"],
    kd_weight: float,
    reduction: Literal["mean", "sum"] = "mean",
) -> Loss:
    """Per level ``alpha * ground_truth + (1 - alpha) * distilled``, over `count` levels, highest first.

    They are averaged, or summed. The highest has only its ground truth, at weight 1. `additive`: ``ground_truth +
    kd_weight * distilled``. Nothing is distilled with `convex` and alpha 1.
    """
    distils = weighting == "additive" or alpha < 1
    total: Tensor | None = None
    gt_terms, kd_terms = [], []
    for level in range(count):
        loss_gt = level_loss = ground_truth(level)
        gt_terms.append(loss_gt.detach())
        if level > 0 and distils:
            loss_kd = distilled(level)
            kd_terms.append(loss_kd.detach())
            if weighting == "convex":
                level_loss = alpha * loss_gt + (1 - alpha) * loss_kd
            else:
                level_loss = loss_gt + kd_weight * loss_kd
        weighted = level_weights[level] * level_loss
        total = weighted if total is None else total + weighted
    assert total is not None, "a batch draws at least one level"
    return Loss(total / count if reduction == "mean" else total, gt_terms, kd_terms)
