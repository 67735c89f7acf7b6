"""Clients whose losses are quadratics, 1/2 (w - b_i)' A_i (w - b_i): what a method must reach is a linear solve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from raf_ray.algorithms.interface import Algorithm, Memory
from raf_ray.federation.server import Server, init_memory
from raf_ray.state import Layout
from raf_ray.training.client import Client, LocalTraining
from raf_ray.training.exchange import Up
from raf_ray.training.optimizer import OptimizerSpec
from raf_ray.training.task import Step
from raf_ray.transforms.interface import Transform

DIM = 3


class Vector(nn.Module):
    """One parameter (d,), in two parts so that flat vectors are really taken apart, and a norm's statistics."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.full((1,), start))
        self.rest = nn.Parameter(torch.full((DIM - 1,), start))
        self.register_buffer("running", torch.zeros(1))

    def forward(self) -> torch.Tensor:
        return torch.cat([self.first, self.rest])


@dataclass
class Quadratic:
    """A task of `steps` batches a pass, each with the same loss."""

    a: np.ndarray
    """(d, d)"""
    b: np.ndarray
    """(d,)"""
    people: int
    steps: int = 1
    bad_pictures: int = 0

    def __len__(self) -> int:
        return self.people

    def epoch(self, rng: np.random.Generator) -> Iterator[int]:
        yield from range(self.steps)

    def fault(self, rng: np.random.Generator) -> str | None:
        return None

    def step(self, model: nn.Module, batch: int, rng: np.random.Generator) -> Step:
        off = model() - torch.tensor(self.b, dtype=torch.float32)
        if model.training:
            model.running += 1
        return Step(0.5 * off @ torch.tensor(self.a, dtype=torch.float32) @ off, people=self.people)


def random_clients(count: int = 4, seed: int = 0, steps: int = 5) -> list[Quadratic]:
    """Clients that disagree: other curvatures, other optima, other numbers of people."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        root = rng.normal(size=(DIM, DIM))
        found.append(Quadratic(root @ root.T / DIM + 0.5 * np.eye(DIM), rng.normal(size=DIM), 10 + 5 * number, steps))
    return found


@dataclass
class Quadratics:
    """A federation of quadratics in this process."""

    algorithm: Algorithm
    tasks: list[Quadratic]
    lr: float = 0.3
    optimizer: str = "sgd"
    momentum: float = 0.0
    reset: bool = True
    transforms: tuple[Transform, ...] = ()
    model: type[nn.Module] = Vector
    memories: dict[str, Memory] = field(default_factory=dict)
    server: Server = field(init=False)

    def __post_init__(self) -> None:
        spec = OptimizerSpec(
            name=self.optimizer, lr=self.lr, weight_decay=0.0, betas=(0.9, 0.999), momentum=self.momentum,  # type: ignore[arg-type]
            layer_decay=1.0, clip=None, schedule="constant", steps=(), reset_each_round=self.reset,
        )  # fmt: skip
        self.clients = [
            Client(f"c{i}", i, "t", self.model(), task, self.algorithm, LocalTraining(0, 10**6, 1, spec),
                   torch.device("cpu"), self.transforms)
            for i, task in enumerate(self.tasks)
        ]  # fmt: skip
        layout = Layout.of(self.clients[0].model)
        self.server = Server(
            self.algorithm,
            layout,
            len(self.clients),
            layout.read(self.model()),
            init_memory(self.algorithm, self.transforms, layout),
            transforms=self.transforms,
        )

    @property
    def weights(self) -> np.ndarray:
        return self.floats[: self.server.layout.count("weights")]

    @property
    def floats(self) -> np.ndarray:
        return np.array(self.server.layout.floats(self.server.state), np.float64)

    @property
    def control(self) -> np.ndarray:
        return self.server.memory["control"]

    def round(self, cohort: Sequence[int] | None = None) -> dict[str, Up]:
        """One round; what went up, by client."""
        chosen = [self.clients[i] for i in cohort or range(len(self.clients))]
        down = self.server.down()
        total = self.server.round([(client.name, len(client.task)) for client in chosen])
        ups = {}
        for client in chosen:
            ups[client.name], _, self.memories[client.name] = client.train(
                down, down.version, self.memories.get(client.name)
            )
            total.add(ups[client.name], [client.name])
        self.server.step(total)
        return ups


def shares(tasks: list[Quadratic]) -> np.ndarray:
    people = np.array([task.people for task in tasks], np.float64)
    return people / people.sum()


def optimum(tasks: list[Quadratic], weights: np.ndarray) -> np.ndarray:
    """argmin of sum_i p_i F_i, by a linear solve."""
    a = sum(p * task.a for p, task in zip(weights, tasks, strict=True))
    return np.linalg.solve(a, sum(p * task.a @ task.b for p, task in zip(weights, tasks, strict=True)))


def fedavg_fixed_point(tasks: list[Quadratic], weights: np.ndarray, lr: float) -> np.ndarray:
    """Where FedAvg with K local gradient steps ends: sum_i p_i (I - (I - lr A_i)^K) (w - b_i) = 0."""
    gains = [np.eye(DIM) - np.linalg.matrix_power(np.eye(DIM) - lr * t.a, t.steps) for t in tasks]
    left = sum(p * gain for p, gain in zip(weights, gains, strict=True))
    right = sum(p * gain @ t.b for p, gain, t in zip(weights, gains, tasks, strict=True))
    return np.linalg.solve(left, right)


def private_fixed_point(tasks: list[Quadratic], weights: np.ndarray, lr: float) -> tuple[np.ndarray, np.ndarray]:
    """Where FedAvg ends when each client keeps its own first entry: (clients,) own entries, (d - 1,) shared ones.

    With G_i = I - (I - lr A_i)^K and u_i = (own_i, shared) - b_i: no client moves its own entry, (G_i u_i)_0 = 0,
    and the mean of the others' moves is zero, sum_i p_i (G_i u_i)_rest = 0.
    """
    count = len(tasks)
    left, right = np.zeros((count + DIM - 1, count + DIM - 1)), np.zeros(count + DIM - 1)
    for i, (p, task) in enumerate(zip(weights, tasks, strict=True)):
        gain = np.eye(DIM) - np.linalg.matrix_power(np.eye(DIM) - lr * task.a, task.steps)
        left[i, i], left[i, count:] = gain[0, 0], gain[0, 1:]
        right[i] = gain[0] @ task.b
        left[count:, i] += p * gain[1:, 0]
        left[count:, count:] += p * gain[1:, 1:]
        right[count:] += p * gain[1:] @ task.b
    found = np.linalg.solve(left, right)
    return found[:count], found[count:]
