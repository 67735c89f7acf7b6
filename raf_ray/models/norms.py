"""Whether a model's norm layers would see one value a channel in training, of which there is no variance."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


def norms_over_batch(model: nn.Module) -> bool:
    """Whether some norm may lack values in a batch of one image that it has in one of two."""
    return any(isinstance(module, _BatchNorm | nn.GroupNorm) for module in model.modules())


def norms_over_place(model: nn.Module) -> bool:
    """Whether some norm gathers its statistics over each image alone."""
    return any(isinstance(module, _InstanceNorm) for module in model.modules())


@torch.no_grad()
def starves(model: nn.Module, people: int, height: int, width: int) -> bool:
    """Whether training on a batch of so many black images fails for want of a second value a channel.

    Runs the model in training mode, which moves its running statistics. Whatever else fails here is told when the
    model is trained, where its device and its pictures are.
    """
    model.train()
    try:
        model(torch.zeros(people, 3, height, width))
    except ValueError as error:
        return "more than 1" in str(error)  # torch's own words, of batch, instance and group norms alike
    except Exception:
        return False
    return False
