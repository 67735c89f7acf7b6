"""A client's optimiser: parameter groups with layer decay, and the schedule over rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass(frozen=True)
class OptimizerSpec:
    """A client's local optimiser and its schedule over the rounds."""

    name: Literal["adamw", "sgd"]
    lr: float
    """Peak rate."""
    weight_decay: float
    betas: tuple[float, float]
    momentum: float
    layer_decay: float
    clip: float | None
    schedule: Literal["constant", "cosine", "steps"]
    steps: tuple[int, ...]
    """Rounds after which `steps` multiplies the rate by 0.1."""
    reset_each_round: bool


def learning_rate(round_index: int, rounds: int, spec: OptimizerSpec) -> float:
    """The rate of round `round_index` (from 0) of `rounds`."""
    if spec.schedule == "cosine":
        return spec.lr * 0.5 * (1 + math.cos(math.pi * round_index / rounds))
    if spec.schedule == "steps":
        return float(spec.lr * 0.1 ** sum(round_index >= step for step in spec.steps))
    return spec.lr


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups of equal weight decay and learning-rate factor (key `factor`).

    Norms, biases and other one-dimensional parameters are not decayed; nor is what the model's own
    `no_weight_decay(name, parameter)` names. With `layer_decay` below 1 the factor of a parameter is
    layer_decay ^ (num_layers - layer id), by the model's `layer_id(name)` and `num_layers` (BEiT, ViTPose).
    """
    spared = getattr(model, "no_weight_decay", None)
    layer_of = getattr(model, "layer_id", None)
    if layer_decay < 1 and layer_of is None:
        raise ValueError("optimizer.layer_decay: this model names no layers; set it to 1")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        plain = parameter.ndim <= 1 or (spared is not None and spared(name, parameter))
        factor = layer_decay ** (model.num_layers - layer_of(name)) if layer_decay < 1 else 1.0  # type: ignore
        groups.setdefault((0.0 if plain else weight_decay, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (decay, factor), parameters in groups.items()
    ]


def build_optimizer(model: nn.Module, spec: OptimizerSpec) -> torch.optim.Optimizer:
    groups = parameter_groups(model, spec.weight_decay, spec.layer_decay)
    if spec.name == "sgd":
        return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum)
    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)
