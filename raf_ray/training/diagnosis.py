"""Why a client's loss is not finite: found out after the fact, from what went in."""

from __future__ import annotations

import numpy as np

from raf_ray.state import Layout


def name_cause(loss: float, state: np.ndarray, layout: Layout, fault: str | None, first_step: bool) -> str:
    """A sentence that names the cause of a `loss` that is not finite.

    Args:
        state: (num_bytes,) uint8 global state that the round began from.
        fault: what of the client's people is not finite, as `Task.fault` has it.
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
    if fault is not None:
        return f"{told}, since {fault} are not finite; correct the labels or pictures"
    if first_step:
        return (
            f"{told} at the first batch already, though the weights, images and targets are finite: the model or the "
            "objective gives it; see model.name and objective.*"
        )
    return f"{told}; lower optimizer.lr or set optimizer.clip"
