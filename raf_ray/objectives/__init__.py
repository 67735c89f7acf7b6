"""What a client minimises: plain functions on tensors. RAF's loss is `mrkd` in mrkd.py.

An objective takes the levels that a batch drew, highest first: heatmaps and targets, L tensors (B, K, h_l, w_l)
each, joint weights (B, K) and L level weights; and returns a `Loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from torch import Tensor

from raf_ray.objectives.heatmap import Loss, heatmap, weighted_mse
from raf_ray.objectives.mrkd import Switches, mrkd, multires


class Objective(Protocol):
    def __call__(
        self,
        heatmaps: Sequence[Tensor],
        targets: Sequence[Tensor],
        weights: Tensor,
        level_weights: Sequence[float],
        /,
    ) -> Loss: ...


def build_objective(name: str, switches: Switches) -> Objective:
    """A built-in objective; `switches` are those of `mrkd`; the others take `reduction` at most."""
    if name == "heatmap":
        return heatmap
    if name == "multires":
        return partial(multires, reduction=switches.get("reduction", "mean"))
    if name == "mrkd":
        return partial(mrkd, **switches)
    raise ValueError(f"no built-in objective is called '{name}'")


__all__ = ["Loss", "Objective", "Switches", "build_objective", "heatmap", "mrkd", "multires", "weighted_mse"]
