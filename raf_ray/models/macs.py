"""What a model's forward pass costs, counted before anything trains."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from raf_ray.resolution import Size

_COUNTED: dict[tuple[str, Size], float] = {}
"""(a model written out, size) -> its count: many requests of one process have one model, and a count takes 0.2 s"""


def forward_macs(model: nn.Module, size: Size) -> float:
    """As `count_macs`; counted once for each kind of model in a process."""
    key = (f"{type(model).__module__} {model}", size)
    if key not in _COUNTED:
        _COUNTED[key] = count_macs(model, size)
    return _COUNTED[key]


def count_macs(model: nn.Module, size: Size) -> float:
    """Multiply-accumulates of one image of `size`: of convolutions and matrix products, and of nothing else.

    The model runs once, in evaluation mode, and is left as it was but for what its own forward changes. Attention runs
    as plain matrix products, since the counter does not know a CPU's fused kernel. Raises what the model raises.
    """
    mode = model.training
    model.eval()
    try:
        counter = FlopCounterMode(display=False)
        with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH), counter:
            model(torch.zeros(1, 3, size.height, size.width))  # with gradients: else torch may fuse whole layers
    finally:
        model.train(mode)
    return counter.get_total_flops() / 2  # it counts a multiplication and an addition as two
