"""One client: a task on its own people, a model, and a method's local rule. A plain class; no Ray in it."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Generic

import numpy as np
import torch
from torch import Tensor, nn

from raf_ray.algorithms.interface import PRIVATE, WEIGHTS, Algorithm, LocalRule, Memory, Start
from raf_ray.errors import RunError
from raf_ray.models import head_of
from raf_ray.state import Layout
from raf_ray.training.diagnosis import name_cause
from raf_ray.training.exchange import Down, Receipt, Up
from raf_ray.training.moments import read_moments, write_moments
from raf_ray.training.optimizer import LocalOptimizer, OptimizerSpec, build_optimizer, learning_rate, set_learning_rate
from raf_ray.training.task import Batch, Step, Task
from raf_ray.training.tracing import Tracer
from raf_ray.training.traffic import wire_bytes
from raf_ray.transforms.interface import Transform, own, placed

MOMENTS = "optimizer."
"""Prefix of the optimiser's moments in a client's memory."""


@dataclass(frozen=True)
class LocalTraining:
    """How a client trains, the same for all clients of a federation."""

    seed: int
    rounds: int
    local_epochs: int
    optimizer: OptimizerSpec


@dataclass
class Client(Generic[Batch]):
    """Trains on its own people from the global state it is given. It keeps nothing between calls but its model's
    memory: `train` is a pure function of its arguments."""

    name: str
    number: int
    tier: str
    model: nn.Module
    task: Task[Batch]
    algorithm: Algorithm
    training: LocalTraining
    device: torch.device
    transforms: tuple[Transform, ...] = ()
    traced_round: int | None = None
    """Round, from 0, that the profiler watches."""
    known_layout: Layout | None = None
    """The model's, from who has asked it before"""
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.model.to(self.device)
        self.layout = self.known_layout or Layout.of(self.model)
        self._private = self.layout.part(self.algorithm.is_private)
        """What the method leaves with the client"""

    @property
    def cached_mb(self) -> float:
        return self.task.cached_mb

    def train(self, down: Down, round_index: int, memory: Memory | None) -> tuple[Up, Receipt, Memory]:
        """Local epochs from a state; the update, what to tell of it, and what the client keeps.

        Args:
            round_index: from 0; with the seed and the client's number it fixes every random draw.
            memory: what the client's last round returned; None in its first.

        Raises:
            RunError: none of the pictures can be read, or the loss is not finite; it names the cause.
        """
        begin = time.perf_counter()
        _forget_peak_memory(self.device)
        setting, tally = self.training, Tally()
        rng = np.random.default_rng([setting.seed, 1 + round_index, self.number])
        _seed(int(rng.integers(2**62)), self.device)
        memory = self.algorithm.init_client(self.layout) if memory is None else memory
        before = self._enter(down, memory)
        optimizer = self._optimizer(round_index, memory)
        tracer = Tracer(self.device) if round_index == self.traced_round else None
        with closing(self._rule(down, round_index, memory)) as rule:
            for batch in self._batches(rng, tracer):
                step = self.task.step(self.model, batch, rng)
                optimizer.zero_grad()
                rule.loss(self.model, step.images, step.loss).backward()  # type: ignore[no-untyped-call]
                rule.gradients(self.model)
                if setting.optimizer.clip is not None:
                    nn.utils.clip_grad_norm_(self.model.parameters(), setting.optimizer.clip)
                optimizer.step()
                tally.add(step)
            self._check(tally, down, round_index)
            up, now = self._leave(down, before, rule, tally.steps)
        if not setting.optimizer.reset_each_round:
            moments = read_moments(optimizer, self.layout.parameters(self.model))
            now |= {f"{MOMENTS}{name}": values for name, values in moments.items()}
        sent, now = self._transform(up, down, round_index, now, memory)
        receipt = Receipt(
            client=self.name,
            people=len(self.task) * setting.local_epochs,
            seconds=time.perf_counter() - begin,
            forward_pixels=tally.pixels,
            loss=tally.mean_loss(),
            terms=tally.mean_terms(),
            term_people=tally.term_people(),
            peak_memory_mb=_peak_memory_mb(self.device),
            bad_pictures=self.task.bad_pictures,
            mb_received=(down.num_bytes - self._private.num_bytes) / 1e6,
            mb_sent=wire_bytes(sent, self.transforms, self.layout, self._private) / 1e6,
            keeps=bool(now),
            norm=_norm(up.vectors[WEIGHTS][: self.layout.count("weights")]),
            device=self.device.type,
            trace=tracer.trace if tracer is not None else None,
        )
        return sent, receipt, now

    def _check(self, tally: Tally, down: Down, round_index: int) -> None:
        """Raise RunError, with the cause, where nothing was trained on or the loss is not finite."""
        if not tally.steps:
            raise RunError(
                f"none of its {self.task.bad_pictures} people has a picture that can be read, and "
                "data.on_bad_image=skip leaves them out; check data.root and data.images"
            )
        if not np.isfinite(loss := tally.mean_loss()):
            rng = np.random.default_rng([self.training.seed, 1 + round_index, self.number])
            first_step = round_index == 0 and not np.isfinite(tally.first_loss())
            raise RunError(name_cause(loss, down.state, self.layout, self.task.fault(rng), first_step))

    def _batches(self, rng: np.random.Generator, tracer: Tracer | None) -> Iterator[Batch]:
        for _ in range(self.training.local_epochs):
            batches = self.task.epoch(rng)
            yield from batches if tracer is None else tracer.watch(batches)

    def _enter(self, down: Down, memory: Memory) -> np.ndarray:
        """Load the global state, with the client's private entries over it: (num_floats,) as the round begins."""
        state = down.state
        if PRIVATE in memory:
            state = state.copy()
            self._private.put(self.layout.floats(state), memory[PRIVATE])
        self.layout.write(state, self.model)
        self.model.train()
        return self.layout.floats(state)

    def _leave(self, down: Down, before: np.ndarray, rule: LocalRule, steps: int) -> tuple[Up, Memory]:
        """The update; private entries stay here, and say nothing of themselves to the server."""
        local = self.layout.read(self.model)
        update = self.layout.floats(local)
        private = {PRIVATE: self._private.take(update)} if self._private.entries else {}
        update -= before
        vectors, kept = rule.finish(update[: self.layout.count("weights")], steps)
        self._private.put(update, 0.0)
        up = Up(self.name, down.version, {WEIGHTS: update, **vectors}, self.layout.counters(local).copy())
        return up, {**kept, **private}

    def _transform(self, up: Up, down: Down, round_index: int, memory: Memory, kept: Memory) -> tuple[Up, Memory]:
        """The update as it is sent. `kept` is the last round's memory, to `memory` goes what transforms keep now."""
        vectors, memory = up.vectors, dict(memory)
        for place, transform in enumerate(self.transforms):
            rng = np.random.default_rng([self.training.seed, 1 + round_index, self.number, 2, place])
            vectors, now = transform.client(vectors, own(kept, place), own(down.vectors, place), self.layout, rng)
            memory |= placed(now, place)
        return replace(up, vectors=vectors), memory

    def _rule(self, down: Down, round_index: int, memory: Memory) -> LocalRule:
        def full_gradient() -> np.ndarray:
            return self._full_gradient(np.random.default_rng([self.training.seed, 1 + round_index, self.number, 1]))

        return self.algorithm.local(
            Start(self.model, self.layout, down.vectors, memory, head_of(self.model), full_gradient)
        )

    def _full_gradient(self, rng: np.random.Generator) -> np.ndarray:
        """(num_weights,) float32 mean gradient over all people at the model's state, which stays as it is."""
        state = self.layout.read(self.model)
        parameters = self.layout.parameters(self.model)
        total, people = torch.zeros(self.layout.count("weights"), device=self.device), 0
        for batch in self.task.epoch(rng):
            step = self.task.step(self.model, batch, rng)
            self.model.zero_grad(set_to_none=True)
            step.loss.backward()  # type: ignore[no-untyped-call]
            for parameter, part in zip(parameters, self.layout.split(total), strict=True):
                if parameter.grad is not None:
                    part += parameter.grad * step.people
            people += step.people
        self.layout.write(state, self.model)  # norms gathered statistics on the way
        self.model.zero_grad(set_to_none=True)
        return np.asarray((total / max(people, 1)).cpu().numpy())

    def _optimizer(self, round_index: int, memory: Memory) -> LocalOptimizer:
        setting = self.training
        optimizer = build_optimizer(self.model, setting.optimizer)
        moments = {name.removeprefix(MOMENTS): values for name, values in memory.items() if name.startswith(MOMENTS)}
        if moments:
            try:
                write_moments(optimizer, self.layout.parameters(self.model), moments)
            except (ValueError, KeyError, RuntimeError) as error:
                raise RunError(
                    "what it keeps of its optimiser does not fit its model; start again with --overwrite"
                ) from error
        set_learning_rate(optimizer, learning_rate(round_index, setting.rounds, setting.optimizer))
        return optimizer


class Tally:
    """What a round's steps add up to; it waits for the device only when it is read. Means are over people."""

    def __init__(self) -> None:
        self.pixels = 0
        self._steps: list[Step] = []

    def add(self, step: Step) -> None:
        self.pixels += step.pixels
        self._steps.append(Step(step.loss.detach(), step.people, step.terms, step.pixels))

    @property
    def steps(self) -> int:
        return len(self._steps)

    def first_loss(self) -> float:
        return float(self._steps[0].loss)

    def mean_loss(self) -> float:
        return _mean([(step.loss, step.people) for step in self._steps])

    def mean_terms(self) -> dict[str, float]:
        return {
            name: _mean([(step.terms[name], step.people) for step in self._steps if name in step.terms])
            for name in self._terms()
        }

    def term_people(self) -> dict[str, int]:
        return {name: sum(step.people for step in self._steps if name in step.terms) for name in self._terms()}

    def _terms(self) -> dict[str, None]:
        return dict.fromkeys(name for step in self._steps for name in step.terms)


def _mean(pairs: list[tuple[Tensor, int]]) -> float:
    """Mean over people of scalars, one a batch."""
    if not pairs:
        return float("nan")
    values = torch.stack([value for value, _ in pairs]).double().tolist()
    return math.fsum(v * n for v, (_, n) in zip(values, pairs, strict=True)) / sum(n for _, n in pairs)


def _norm(vector: np.ndarray) -> float:
    """L2 norm, summed in float64."""
    return float(torch.linalg.vector_norm(torch.from_numpy(vector), dtype=torch.float64))


def _seed(seed: int, device: torch.device) -> None:
    """Seed what draws in the model; `torch.manual_seed` asks every kind of accelerator, which takes longer."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def _forget_peak_memory(device: torch.device) -> None:
    """Begin a client's own peak, where the device keeps one that can be set back."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_memory_mb(device: torch.device) -> float:
    """Peak of the device's allocations on a GPU, of this process's resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
