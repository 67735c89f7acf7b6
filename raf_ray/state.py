"""A model's state as ONE contiguous buffer plus a layout, so that a broadcast is one ``ray.put``.

The buffer holds first all float32 entries (weights, then statistics), then all int64 counters. Weights are
trained; statistics are what norms gather (running means and variances) and are averaged too; counters
(``num_batches_tracked``) are not: they take the maximum.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch
from torch import nn

Kind = Literal["weights", "statistics", "counters"]
KINDS: tuple[Kind, ...] = ("weights", "statistics", "counters")


@dataclass(frozen=True)
class Entry:
    name: str
    shape: tuple[int, ...]
    kind: Kind
    start: int
    """First element, counted in the floats or, for counters, in the counters."""

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Names, shapes and kinds of the entries of a state, in buffer order."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """The layout of a model's state dict. Raises ValueError for a dtype that a buffer cannot hold."""
        parameters = {name for name, _ in model.named_parameters()}
        found: dict[Kind, list[tuple[str, torch.Tensor]]] = {kind: [] for kind in KINDS}
        for name, tensor in model.state_dict().items():
            if tensor.dtype == torch.float32:
                found["weights" if name in parameters else "statistics"].append((name, tensor))
            elif not tensor.is_floating_point() and not tensor.is_complex():
                found["counters"].append((name, tensor))
            else:
                raise ValueError(f"the model's {name} is {tensor.dtype}; weights must be float32")
        entries = []
        groups: tuple[tuple[Kind, ...], ...] = (("weights", "statistics"), ("counters",))
        for group in groups:
            start = 0
            for kind in group:
                for name, tensor in found[kind]:
                    entries.append(Entry(name, tuple(tensor.shape), kind, start))
                    start += tensor.numel()
        return cls(tuple(entries))

    def count(self, *kinds: Kind) -> int:
        return sum(entry.size for entry in self.entries if entry.kind in kinds)

    @property
    def num_floats(self) -> int:
        return self.count("weights", "statistics")

    @property
    def num_counters(self) -> int:
        return self.count("counters")

    @property
    def float_bytes(self) -> int:
        """Bytes of the floats, rounded up so that the counters are aligned."""
        return (self.num_floats * 4 + 7) // 8 * 8

    @property
    def num_bytes(self) -> int:
        return self.float_bytes + self.num_counters * 8

    @property
    def weights(self) -> tuple[Entry, ...]:
        """The trained entries, which come first in the floats."""
        return tuple(entry for entry in self.entries if entry.kind == "weights")

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """A model's parameters in the order of `weights`."""
        return [model.get_parameter(entry.name) for entry in self.weights]

    def split(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """A vector (num_weights,) as views in the shapes of `weights`."""
        return [vector[entry.start : entry.start + entry.size].view(entry.shape) for entry in self.weights]

    def floats(self, buffer: np.ndarray) -> np.ndarray:
        """(num_floats,) float32 view of a buffer."""
        return buffer[: self.num_floats * 4].view(np.float32)

    def counters(self, buffer: np.ndarray) -> np.ndarray:
        """(num_counters,) int64 view of a buffer."""
        return buffer[self.float_bytes :].view(np.int64)

    def not_finite(self, buffer: np.ndarray) -> list[str]:
        """Names of the entries of a buffer that hold NaN or infinite values."""
        floats = self.floats(buffer)
        if np.isfinite(floats).all():
            return []
        held = ((e.name, floats[e.start : e.start + e.size]) for e in self.entries if e.kind != "counters")
        return [name for name, values in held if not np.isfinite(values).all()]

    def read(self, model: nn.Module, buffer: np.ndarray | None = None) -> np.ndarray:
        """Copy a model's state into a (new) buffer (num_bytes,) uint8."""
        if buffer is None:
            buffer = np.zeros(self.num_bytes, np.uint8)
        views = {"floats": self.floats(buffer), "counters": self.counters(buffer)}
        state = model.state_dict()
        for entry in self.entries:
            view = views["counters" if entry.kind == "counters" else "floats"]
            values = state[entry.name].detach().to("cpu").contiguous().numpy().reshape(-1)
            view[entry.start : entry.start + entry.size] = values
        return buffer

    def tensors(self, buffer: np.ndarray) -> dict[str, torch.Tensor]:
        """The state dict that a buffer holds, as copies (a buffer from the object store is read-only)."""
        floats, counters = self.floats(buffer).copy(), self.counters(buffer).copy()
        return {
            entry.name: torch.from_numpy(counters if entry.kind == "counters" else floats)[
                entry.start : entry.start + entry.size
            ].view(entry.shape)
            for entry in self.entries
        }

    def write(self, buffer: np.ndarray, model: nn.Module) -> None:
        """Load a buffer into a model of this layout."""
        state = model.state_dict()
        with torch.no_grad():
            for name, values in self.tensors(buffer).items():
                state[name].copy_(values)
