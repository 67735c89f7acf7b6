"""Why a client's loss is not finite: found out after the fact, from what went in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from raf_ray.federation.state import Layout


def name_cause(
    loss: float,
    state: np.ndarray,
    layout: Layout,
    pyramids: Iterable[tuple[Any, Sequence[Any]]],
    first_step: bool,
) -> str:
    """A sentence that names the cause of a `loss` that is not finite.

    Args:
        state: (num_bytes,) uint8 global state that the round began from.
        pyramids: the client's batches, once each, and their levels, whose `images` and `targets` are looked at.
        first_step: the loss was so at the run's first batch, before any step.
    """
    told = f"the loss is {loss}"
    bad = layout.not_finite(state)
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        return (
            f"{told}, since the model that the round began from is not finite ({bad[0]}{more}); start from another "
            "model.checkpoint, or lower optimizer.lr"
        )
    for batch, levels in pyramids:
        for level in levels:
            for what in ("images", "targets"):
                rows = ~torch.isfinite(getattr(level, what)).flatten(1).all(dim=1)
                if rows.any():
                    people = getattr(batch, "person_id", None)
                    whose = "" if people is None else f" of person {people[int(rows.nonzero()[0])]}"
                    return f"{told}, since {what}{whose} at {level.size} are not finite; correct the labels or pictures"
    if first_step:
        return (
            f"{told} at the first batch already, though the weights, images and targets are finite: the model or the "
            "objective gives it; see model.name and objective.*"
        )
    return f"{told}; lower optimizer.lr or set optimizer.clip"
