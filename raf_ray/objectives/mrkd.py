"""MRKD, multi-resolution knowledge distillation: RAF's local objective (arXiv 2507.23461), and its control.

One model predicts heatmaps for every level of a pyramid, highest first. Each level has a loss against its own
Gaussian target; each level but the first is also a student of a level above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from raf_ray.filters import area_resize, gaussian_blur
from raf_ray.objectives.heatmap import Loss, weighted_mse
from raf_ray.objectives.pyramid import Teacher, over_levels, teachers_of
from raf_ray.resolution import Size

Resize = Literal["nearest", "bilinear", "matched"]


class Switches(TypedDict, total=False):
    """What `mrkd` can be told."""

    alpha: float
    teacher: Teacher
    weighting: Literal["convex", "additive"]
    kd_weight: float
    loss: Literal["mse", "kl"]
    temperature: float
    resize: Resize
    sigma: float
    reduction: Literal["mean", "sum"]


def mrkd(
    heatmaps: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Tensor,
    level_weights: Sequence[float],
    *,
    alpha: float = 0.5,
    teacher: Teacher = "previous",
    weighting: Literal["convex", "additive"] = "convex",
    kd_weight: float = 1.0,
    loss: Literal["mse", "kl"] = "mse",
    temperature: float = 1.0,
    resize: Resize = "nearest",
    sigma: float = 2.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Loss:
    """RAF's loss: per level ``alpha * loss_gt + (1 - alpha) * loss_kd``, averaged over the levels drawn.

    The top level has only loss_gt, at weight 1. Teachers are detached.

    Args:
        heatmaps: L tensors (B, K, h_l, w_l), highest level first.
        targets: L tensors of the same shapes.
        weights: (B, K) joint weights, of both losses.
        level_weights: L factors on the levels' losses (1 each in the paper).
        alpha: share of the target in a student's loss (paper: 0.5); 1 means no distillation.
        teacher: the level above, the highest, or the mean of all higher levels.
        weighting: `convex` as above; `additive`: loss_gt + kd_weight * loss_kd (the authors' last commit).
        loss: joint-weighted MSE, or KL of softmax over h x w at `temperature`, times temperature^2.
        resize: `nearest` or `bilinear` bring the student to the teacher's size (nearest: paper); `matched`
            (ours, not the paper's) compares at the student's size, see `matched_teacher`.
        sigma: of the targets, in heatmap pixels; only `matched` uses it.
        reduction: over the levels drawn (the authors' code at the time of the paper: sum).
    """

    switches = Switches(loss=loss, temperature=temperature, resize=resize, sigma=sigma)

    def ground_truth(level: int) -> Tensor:
        return weighted_mse(heatmaps[level], targets[level], weights)

    def taught(level: int) -> Tensor:
        return distilled(heatmaps[level], teachers_of(teacher, heatmaps[:level]), weights, switches)

    return over_levels(
        len(heatmaps), ground_truth, taught, level_weights,
        alpha=alpha, weighting=weighting, kd_weight=kd_weight, reduction=reduction,
    )  # fmt: skip


def multires(
    heatmaps: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Tensor,
    level_weights: Sequence[float],
    reduction: Literal["mean", "sum"] = "mean",
) -> Loss:
    """Multi-resolution training without distillation (MRKD with alpha 1): the control for MRKD."""
    return mrkd(heatmaps, targets, weights, level_weights, alpha=1.0, reduction=reduction)


def distilled(student: Tensor, teachers: Sequence[Tensor], weights: Tensor, switches: Switches) -> Tensor:
    """A level's heatmaps against the mean of those that teach it, brought to one size by `mrkd`'s switches."""
    resize = switches.get("resize", "nearest")
    pupil, taught = _bring_together(student, teachers, resize, switches.get("sigma", 2.0))
    if switches.get("loss", "mse") == "mse":
        return weighted_mse(pupil, taught, weights)
    return spatial_kl(pupil, taught, weights, switches.get("temperature", 1.0))


def _bring_together(student: Tensor, teachers: Sequence[Tensor], resize: Resize, sigma: float) -> tuple[Tensor, Tensor]:
    """Student and (detached) teacher at one size. An ensemble is compared at the highest level's size,
    or with `matched` at the student's."""
    with torch.no_grad():
        if resize == "matched":
            taught = [matched_teacher(t, student.shape[-2:], sigma) for t in teachers]
        else:
            size = teachers[0].shape[-2:]
            taught = [_interpolate(t, size, resize) for t in teachers]
        mean = taught[0].detach() if len(taught) == 1 else torch.stack(taught).mean(0)
    if resize == "matched":
        return student, mean
    return _interpolate(student, mean.shape[-2:], resize), mean


def _interpolate(heatmaps: Tensor, size: Sequence[int], mode: str) -> Tensor:
    if heatmaps.shape[-2:] == torch.Size(size):
        return heatmaps
    align = False if mode == "bilinear" else None
    return F.interpolate(heatmaps, size=tuple(size), mode=mode, align_corners=align)


def matched_teacher(heatmaps: Tensor, size: Sequence[int], sigma: float) -> Tensor:
    """A teacher (B, K, H, W) at the student's `size` (h, w) that means the same Gaussian (ours, not the paper's).

    With r = H / h: exact area averaging to (h, w), a Gaussian blur of variance sigma^2 (1 - 1/r^2) px^2, times
    r^2. A Gaussian target of the teacher's size becomes the student's own target to within pixel integration.
    """
    height, width = int(size[0]), int(size[1])
    ratio = heatmaps.shape[-2] / height
    reduced = area_resize(heatmaps, Size(height, width))
    if ratio == 1:
        return reduced
    return gaussian_blur(reduced, sigma * (1 - ratio**-2) ** 0.5) * ratio**2


def spatial_kl(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Mean over B, K of weight x KL(teacher || student) of softmax over h x w at T, times T^2 (Hinton 2015)."""
    log_student = F.log_softmax(student.flatten(2) / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.flatten(2) / temperature, dim=-1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
    return (divergence * weights).mean() * temperature**2
