"""What a model's forward pass costs, counted before anything trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

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
        with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH), _Counter() as counter:  # type: ignore[no-untyped-call]
            model(torch.zeros(1, 3, size.height, size.width))  # with gradients: else torch may fuse whole layers
    finally:
        model.train(mode)
    return counter.flops / 2  # a multiplication and an addition are two


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """torch's FlopCounterMode by its own formulas, without torch's compiler, which that imports: 2 s and 160 MB."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch wraps the method by what imports the compiler
