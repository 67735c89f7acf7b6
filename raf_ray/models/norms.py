"""Whether a model's norm layers would see one value a channel in training, of which there is no variance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from raf_ray.errors import InputError
from raf_ray.resolution import Size


def check_norms(model: nn.Module, name: str, clients: Sequence[tuple[str, int, Size]], batch_size: int) -> None:
    """Raise InputError where a norm layer would see one value a channel in some client's smallest batch.

    Moves the model's running statistics. `clients`: each one's name, number of people and smallest level.
    """
    over_batch = any(isinstance(module, _BatchNorm | nn.GroupNorm) for module in model.modules())
    over_place = any(isinstance(module, _InstanceNorm) for module in model.modules())
    tried: dict[tuple[int, Size], bool] = {}
    for client, people, size in clients:
        fewest = 1 if batch_size == 1 or people % batch_size == 1 else 2
        if not (over_place or (over_batch and fewest == 1)):
            continue
        if (fewest, size) not in tried:
            tried[fewest, size] = starves(model, fewest, size)
        if tried[fewest, size]:
            whose = f"a batch of 1 person ({people} people, optimizer.batch_size={batch_size})"
            remedy = "set optimizer.batch_size or data.people_per_client so that no batch has 1, or "
            raise InputError(
                f"model.name={name}: client {client} trains {whose if fewest == 1 else 'batches'} at {size}, of which "
                f"a norm layer sees one value a channel; {remedy if fewest == 1 else ''}name larger levels"
            )


@torch.no_grad()
def starves(model: nn.Module, people: int, size: Size) -> bool:
    """Whether training on a batch of so many black images fails for want of a second value a channel.

    Whatever else fails here is told when the model is trained, where its device and its pictures are.
    """
    model.train()
    try:
        model(torch.zeros(people, 3, size.height, size.width))
    except ValueError as error:
        return "more than 1" in str(error)  # torch's own words, of batch, instance and group norms alike
    except Exception:
        return False
    return False
