"""A model's norm layers: batch norms whose statistics stay as they are, and norms that would see too few values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from raf_ray.errors import InputError
from raf_ray.resolution import Size


def freeze_norms(model: nn.Module, name: str, asked: bool | None) -> nn.Module:
    """Make the model's batch norms keep their statistics and normalise by them, in training too; in place.

    Their weights and biases train as before. `asked` None goes by the model's own `freeze_norms`, False where it has
    none. Raises InputError where it was asked for and there are no batch norms with statistics.
    """
    if not (getattr(model, "freeze_norms", False) if asked is None else asked):
        return model
    found = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if asked and not found:
        raise InputError(
            f"model.freeze_norms=true: model.name={name} has no batch norms with statistics to keep; leave it null"
        )
    for module in found:
        module.__class__ = _frozen(type(module))  # type: ignore[arg-type]
        module.eval()
    return model


@cache
def _frozen(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    """A batch norm's class that stays in evaluation mode; entries and their names are its own."""

    def train(self: Any, mode: bool = True) -> Any:
        return kind.train(self, False)

    return type(f"Frozen{kind.__name__}", (kind,), {"train": train})


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
