"""A client's optimiser: parameter groups with layer decay, and the schedule over rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd


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
    decayed: Literal["weights", "authors"] = "weights"
    """What weight decay is applied to; see `parameter_groups`"""


def learning_rate(round_index: int, rounds: int, spec: OptimizerSpec) -> float:
    """The rate of round `round_index` (from 0) of `rounds`."""
    if spec.schedule == "cosine":
        return spec.lr * 0.5 * (1 + math.cos(math.pi * round_index / rounds))
    if spec.schedule == "steps":
        return float(spec.lr * 0.1 ** sum(round_index >= step for step in spec.steps))
    return spec.lr


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float, decayed: Literal["weights", "authors"] = "weights"
) -> list[dict[str, Any]]:
    """Groups of equal weight decay and learning-rate factor (key `factor`).

    Norms, biases and other one-dimensional parameters are not decayed; nor is what the model's own
    `no_weight_decay(name, parameter)` names. `authors` goes by names alone, as their code: with `norm`, `bias` or
    `pos_embed` in it a parameter is not decayed, else it is, a local position embedding and a batch norm that is called
    by its number too. With `layer_decay` below 1 the factor of a parameter is layer_decay ^ (num_layers - layer id), by
    the model's `layer_id(name)` and `num_layers` (BEiT, ViTPose).
    """
    spared = getattr(model, "no_weight_decay", None)
    layer_of = getattr(model, "layer_id", None)
    if layer_decay < 1 and layer_of is None:
        raise ValueError("optimizer.layer_decay: this model names no layers; set it to 1")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if decayed == "authors":
            plain = any(part in name for part in ("norm", "bias", "pos_embed"))
        else:
            plain = parameter.ndim <= 1 or (spared is not None and spared(name, parameter))
        factor = layer_decay ** (model.num_layers - layer_of(name)) if layer_decay < 1 else 1.0  # type: ignore
        groups.setdefault((0.0 if plain else weight_decay, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (decay, factor), parameters in groups.items()
    ]


class LocalOptimizer:
    """AdamW or SGD by torch's functions, the steps of torch.optim's classes bit for bit.

    Those classes import torch's compiler with their first group of parameters: two seconds and 160 MB in each process
    that trains.
    """

    def __init__(self, groups: list[dict[str, Any]], spec: OptimizerSpec) -> None:
        self.param_groups = [{**group, "lr": spec.lr} for group in groups]
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        """Moments of each parameter that has had a gradient"""
        self._spec = spec

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        update = self._sgd if self._spec.name == "sgd" else self._adamw
        with record_function(f"Optimizer.step#{self._spec.name}"):  # in traces, as torch's own
            for group in self.param_groups:
                parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
                if parameters:
                    grads = [parameter.grad for parameter in parameters]
                    update(parameters, grads, group["lr"], group["weight_decay"])

    def _adamw(self, parameters: list[Any], grads: list[Tensor], lr: float, weight_decay: float) -> None:
        for parameter in parameters:
            if parameter not in self.state:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }
        beta1, beta2 = self._spec.betas
        adamw(parameters, grads, self._all("exp_avg", parameters), self._all("exp_avg_sq", parameters), [],
              self._all("step", parameters), fused=True, amsgrad=False, beta1=beta1, beta2=beta2, lr=lr,
              weight_decay=weight_decay, eps=1e-8, maximize=False)  # fmt: skip

    def _sgd(self, parameters: list[Any], grads: list[Tensor], lr: float, weight_decay: float) -> None:
        buffers: list[Tensor | None] = [self.state.get(p, {}).get("momentum_buffer") for p in parameters]
        momentum = self._spec.momentum
        sgd(parameters, grads, buffers, lr=lr, weight_decay=weight_decay, momentum=momentum, dampening=0.0,
            nesterov=False, maximize=False)  # fmt: skip
        for parameter, buffer in zip(parameters, buffers, strict=True):
            if buffer is not None:
                self.state[parameter] = {"momentum_buffer": buffer}

    def _all(self, name: str, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        return [self.state[parameter][name] for parameter in parameters]


def build_optimizer(model: nn.Module, spec: OptimizerSpec) -> LocalOptimizer:
    return LocalOptimizer(parameter_groups(model, spec.weight_decay, spec.layer_decay, spec.decayed), spec)


def set_learning_rate(optimizer: LocalOptimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]
