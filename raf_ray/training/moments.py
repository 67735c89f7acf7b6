"""An optimiser's moments as flat arrays, so that a client keeps them like any other of its memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from raf_ray.training.optimizer import LocalOptimizer

PRESENT = "present"
"""Name of the array that says which parameters have moments: a frozen one never gets any."""


def read_moments(optimizer: LocalOptimizer, parameters: Sequence[nn.Parameter]) -> dict[str, np.ndarray]:
    """Moment name (`exp_avg`, `momentum_buffer`, `step` ...) -> its values for all parameters, one after the other."""
    present = [p for p in parameters if optimizer.state.get(p)]
    names = sorted({name for p in present for name in optimizer.state[p]})
    moments = {
        name: np.concatenate([optimizer.state[p][name].detach().cpu().float().reshape(-1).numpy() for p in present])
        for name in names
    }
    return {PRESENT: np.array([bool(optimizer.state.get(p)) for p in parameters]), **moments}


def write_moments(
    optimizer: LocalOptimizer, parameters: Sequence[nn.Parameter], moments: Mapping[str, np.ndarray]
) -> None:
    """Give an optimiser that has made no step the moments that `read_moments` gave.

    Raises ValueError or RuntimeError where they are of other parameters.
    """
    optimizer.state.clear()
    starts = dict.fromkeys(moments, 0)
    for parameter, present in zip(parameters, moments[PRESENT], strict=True):
        if not present:
            continue
        for name, values in moments.items():
            if name == PRESENT:
                continue
            # A parameter's own shape and memory order, which the fused optimisers count on; `step` is one number.
            like = torch.zeros((), device=parameter.device) if name == "step" else torch.zeros_like(parameter)
            chunk = torch.tensor(values[starts[name] : starts[name] + like.numel()])
            optimizer.state.setdefault(parameter, {})[name] = like.copy_(chunk.view(like.shape))
            starts[name] += like.numel()
