"""What a step of a client needs of its device, measured by taking a few."""

from __future__ import annotations

import numpy as np
import torch

from raf_ray.training.clients import ClientData, ClientPlan
from raf_ray.training.optimizer import build_optimizer
from raf_ray.training.spec import ClientSpec

STEPS = 3
"""The first makes the optimiser's moments and the libraries' workspaces, and levels may be drawn: a choice."""

CONTEXT_BYTES = 0.6e9
"""That a CUDA context and its libraries take beside PyTorch's own allocations: a measured 0.5 GB, and room."""
MARGIN = 1.15
"""For what the allocator does not give back between sizes: a choice."""


def dry_step(spec: ClientSpec, plan: ClientPlan, data: ClientData) -> float:
    """Take a client's first steps on a model of its own: the share of a GPU's memory that they need; 0 without one."""
    client = spec.build(plan, data)
    device = client.device
    if device.type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats(device)
    rng = np.random.default_rng(0)
    optimizer = build_optimizer(client.model, spec.training.optimizer)
    for _, batch in zip(range(STEPS), client.task.epoch(rng), strict=False):
        step = client.task.step(client.model, batch, rng)
        optimizer.zero_grad()
        step.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    peak = torch.cuda.max_memory_allocated(device)
    return gpu_share(peak, torch.cuda.get_device_properties(device).total_memory)


def gpu_share(peak_bytes: float, total_bytes: float) -> float:
    """The share of a GPU that a process of such a peak takes, in whole hundredths."""
    return min(1.0, int(100 * (MARGIN * peak_bytes + CONTEXT_BYTES) / total_bytes + 1) / 100)
