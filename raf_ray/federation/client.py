"""One client: a shard of people at one tier, a model, an objective. A plain class; no Ray in it."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from raf_ray.errors import RunError
from raf_ray.federation.diagnosis import name_cause
from raf_ray.federation.optimizer import build_optimizer, learning_rate, set_learning_rate
from raf_ray.federation.state import Layout
from raf_ray.federation.tracing import Tracer
from raf_ray.resolution import Size


class BatchSource(Protocol):
    """What a client trains on; `raf_ray.data.batches.Batches` is one."""

    bad: set[int]

    def __len__(self) -> int: ...
    def epoch(self, rng: np.random.Generator) -> Iterator[Any]: ...


@dataclass(frozen=True)
class LocalTraining:
    """How a client trains, the same for all clients of a federation."""

    seed: int
    rounds: int
    local_epochs: int
    optimizer: str
    lr: float
    schedule: str
    steps: tuple[int, ...]
    weight_decay: float
    betas: tuple[float, float]
    momentum: float
    layer_decay: float
    clip: float | None
    reset_each_round: bool
    bf16: bool


@dataclass(frozen=True)
class Update:
    """What a client sends back after a round."""

    client: str
    floats: np.ndarray
    """(num_floats,) float32: share x (local - global)"""
    counters: np.ndarray
    """(num_counters,) int64"""
    people: int
    seconds: float
    forward_pixels: int
    """Image pixels that went forward through the model, over all levels."""
    loss: float
    """Mean over the people of their batches' total losses."""
    terms: dict[str, float]
    """Mean loss terms, `gt_128x96`, `kd_96x72` ..., over the people whose batches drew the level."""
    term_people: dict[str, int]
    """Term -> those people, epochs counted."""
    peak_memory_mb: float
    """On a GPU the round's largest allocation; on a CPU the process's largest resident memory so far, which cannot
    be set back and which clients that share a process share."""
    bad_pictures: int
    """People left out so far, as this process knows."""
    mb_sent: float
    norm: float
    """L2 norm of the weights' (local - global), before the share; norm statistics left out."""
    device: str
    """`cpu` or `cuda`: whose memory `peak_memory_mb` is."""
    trace: bytes | None = None
    """Gzipped Chrome trace of this round, where it was asked for."""

    def without_state(self) -> Update:
        """The same without its arrays, which would otherwise stay in memory."""
        return replace(self, floats=np.empty(0, np.float32), counters=np.empty(0, np.int64), trace=None)


@dataclass
class Client:
    """Trains on its own people from the global state it is given."""

    name: str
    number: int
    tier: str
    levels: tuple[Size, ...]
    """Its pyramid, own size first."""
    level_weights: tuple[float, ...]
    model: nn.Module
    batches: BatchSource
    draw_levels: Callable[[int, np.random.Generator], Sequence[int]]
    render: Callable[[Any, Sequence[Size]], Sequence[Any]]
    objective: Callable[..., Any]
    training: LocalTraining
    device: torch.device
    traced_round: int | None = None
    """Round, from 0, that the profiler watches."""
    layout: Layout = field(init=False)
    _optimizer: torch.optim.Optimizer | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.model.to(self.device)
        self.layout = Layout.of(self.model)

    def train(self, state: np.ndarray, round_index: int, share: float) -> Update:
        """Local epochs from `state`; the weighted update. The same arguments give the same bits.

        Args:
            state: (num_bytes,) uint8 global buffer, read only.
            round_index: from 0; with the seed and the client's number it fixes every random draw.
            share: this client's part of the weighted mean.

        Raises:
            RunError: none of the pictures can be read, or the loss is not finite; it names the cause.
        """
        begin = time.perf_counter()
        _forget_peak_memory(self.device)
        setting = self.training
        rng = np.random.default_rng([setting.seed, 1 + round_index, self.number])
        torch.manual_seed(int(rng.integers(2**62)))
        self.layout.write(state, self.model)
        optimizer = self._optimizer_for(round_index)
        losses, pixels = _Mean(), 0
        terms: dict[str, _Mean] = {}
        tracer = Tracer(self.device) if round_index == self.traced_round else None
        self.model.train()
        for _ in range(setting.local_epochs):
            batches = self.batches.epoch(rng)
            for batch in batches if tracer is None else tracer.watch(batches):
                drawn = self.draw_levels(len(self.levels), rng)
                levels = self.render(batch, [self.levels[i] for i in drawn])
                with torch.autocast(self.device.type, torch.bfloat16, enabled=setting.bf16):
                    heatmaps = [self.model(level.images) for level in levels]
                loss = self.objective(
                    [h.float() for h in heatmaps],
                    [level.targets for level in levels],
                    batch.weights,
                    [self.level_weights[i] for i in drawn],
                )
                optimizer.zero_grad(set_to_none=True)
                loss.total.backward()
                if setting.clip is not None:
                    nn.utils.clip_grad_norm_(self.model.parameters(), setting.clip)
                optimizer.step()
                losses.add(loss.total, len(batch))
                for name, values in (("gt", loss.gt), ("kd", loss.kd)):
                    for level, value in zip(levels[len(levels) - len(values) :] if name == "kd" else levels,
                                            values, strict=False):  # fmt: skip
                        terms.setdefault(f"{name}_{level.size}", _Mean()).add(value, len(batch))
                pixels += len(batch) * sum(level.size.pixels for level in levels)
        mean_loss = losses.value()
        if not len(losses):
            raise RunError(
                f"none of its {len(self.batches.bad)} people has a picture that can be read, and "
                "data.on_bad_image=skip leaves them out; check data.root and data.images"
            )
        if not np.isfinite(mean_loss):
            raise RunError(self._cause(mean_loss, state, round_index, losses.first()))
        local = self.layout.read(self.model)
        update = self.layout.floats(local) - self.layout.floats(state)
        weights = torch.from_numpy(update[: self.layout.count("weights")])
        norm = float(torch.linalg.vector_norm(weights, dtype=torch.float64))
        update *= np.float32(share)
        return Update(
            client=self.name,
            floats=update,
            counters=self.layout.counters(local).copy(),
            mb_sent=local.nbytes / 1e6,
            people=len(self.batches) * setting.local_epochs,
            seconds=time.perf_counter() - begin,
            forward_pixels=pixels,
            loss=mean_loss,
            terms={name: mean.value() for name, mean in terms.items()},
            term_people={name: mean.people for name, mean in terms.items()},
            peak_memory_mb=_peak_memory_mb(self.device),
            bad_pictures=len(self.batches.bad),
            norm=norm,
            device=self.device.type,
            trace=tracer.trace if tracer is not None else None,
        )

    def _cause(self, loss: float, state: np.ndarray, round_index: int, first: float) -> str:
        rng = np.random.default_rng([self.training.seed, 1 + round_index, self.number])
        first_step = round_index == 0 and not np.isfinite(first)
        pyramids = ((batch, self.render(batch, self.levels)) for batch in self.batches.epoch(rng))
        return name_cause(loss, state, self.layout, pyramids, first_step)

    def local_state(self) -> dict[str, Any] | None:
        """What a checkpoint must keep of this client between rounds: the optimiser's moments, if kept."""
        if self.training.reset_each_round or self._optimizer is None:
            return None
        return _on_cpu(self._optimizer.state_dict())

    def restore(self, local_state: dict[str, Any]) -> None:
        """Go on with what `local_state` gave. Raises RunError where that is of another optimiser."""
        self._optimizer = self._new_optimizer()
        try:
            self._optimizer.load_state_dict(local_state)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                "what checkpoint.pt keeps of its optimiser does not fit its model; start again with --overwrite"
            ) from error

    def _new_optimizer(self) -> torch.optim.Optimizer:
        setting = self.training
        return build_optimizer(
            self.model,
            setting.optimizer,  # type: ignore[arg-type]
            lr=setting.lr,
            weight_decay=setting.weight_decay,
            betas=setting.betas,
            momentum=setting.momentum,
            layer_decay=setting.layer_decay,
        )

    def _optimizer_for(self, round_index: int) -> torch.optim.Optimizer:
        setting = self.training
        if self._optimizer is None or setting.reset_each_round:
            self._optimizer = self._new_optimizer()
        rate = learning_rate(round_index, setting.rounds, setting.lr, setting.schedule, setting.steps)  # type: ignore[arg-type]
        set_learning_rate(self._optimizer, rate)
        return self._optimizer


def _on_cpu(value: Any) -> Any:
    """Nested containers with their tensors on the CPU: a state that a process without a GPU can read."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else value


class _Mean:
    """A mean over people of scalar tensors, one a batch, that waits for the device only when it is read."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._people: list[int] = []

    def add(self, value: Tensor, people: int) -> None:
        self._values.append(value.detach())
        self._people.append(people)

    @property
    def people(self) -> int:
        return sum(self._people)

    def __len__(self) -> int:
        return len(self._values)

    def first(self) -> float:
        return float(self._values[0])

    def value(self) -> float:
        if not self._values:
            return float("nan")
        values = torch.stack(self._values).double().tolist()
        return math.fsum(v * n for v, n in zip(values, self._people, strict=True)) / self.people


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
