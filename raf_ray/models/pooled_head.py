"""A head for the picture as a whole: the mean of the features over all places, then one linear layer.

Source: Lin et al. 2014, "Network in Network" (global average pooling), as He et al. 2016 end in it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raf_ray.errors import InputError
from raf_ray.models import head_of, size_divisor


class PooledHead(nn.Module):
    """Features (B, C, h, w) of any size to (B, K, 1, 1) logits."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, outputs)
        nn.init.normal_(self.linear.weight, std=0.01)  # He et al. 2016's code for a classifier
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits[:, :, None, None]


def with_pooled_head(model: nn.Module, outputs: int) -> nn.Module:
    """The model with a `PooledHead` in its head's place, changed in place.

    Raises InputError where the model names no head or gives no features.
    """
    if head_of(model) is None:
        raise InputError(
            f"{type(model).__name__} cannot classify: it needs features(images) -> (B, C, h, w) and a head_name, the "
            "module that they go through; choose a built-in model.name"
        )
    side = 4 * size_divisor(model)
    was_training = model.training
    with torch.no_grad():
        channels = model.eval().features(torch.zeros(1, 3, side, side)).shape[1]  # type: ignore[operator]
    model.train(was_training)
    model.set_submodule(str(model.head_name), PooledHead(channels, outputs))
    return model
