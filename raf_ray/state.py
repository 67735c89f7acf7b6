"""A model's state as ONE contiguous buffer plus a layout, so that a broadcast is one ``ray.put``.

The buffer holds first all float32 entries (weights, then statistics), then all int64 counters. Weights are
trained; statistics are what norms gather (running means and variances) and are averaged too; counters
(``num_batches_tracked``) are not: they take the maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
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
    norm: str = ""
    """Class of the norm layer that holds it, such as `GroupNorm`; empty: none does"""
    frozen: bool = False
    """A parameter that takes no gradient (`requires_grad_(False)`), so that no client changes it."""

    @cached_property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def is_weight(self) -> bool:
        return self.kind == "weights"


def _is_norm(module: nn.Module) -> bool:
    """By the name of its class or of one that it varies, as all of torch's and timm's norms are called."""
    return any("Norm" in kind.__name__ for kind in type(module).__mro__)


@dataclass(frozen=True)
class Part:
    """Some entries of a layout's floats, as one vector (size,)."""

    entries: tuple[Entry, ...]

    @cached_property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)

    @property
    def num_bytes(self) -> int:
        return 4 * self.size

    def take(self, floats: np.ndarray) -> np.ndarray:
        """(size,) copied from (num_floats,)"""
        return np.concatenate([floats[entry.start : entry.start + entry.size] for entry in self.entries])

    def put(self, floats: np.ndarray, values: np.ndarray | float) -> None:
        """Write (size,) values, or one for all, into (num_floats,), in place."""
        at = 0
        for entry in self.entries:
            own = values[at : at + entry.size] if isinstance(values, np.ndarray) else values
            floats[entry.start : entry.start + entry.size] = own
            at += entry.size


@dataclass(frozen=True)
class Layout:
    """Names, shapes and kinds of the entries of a state, in buffer order."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """The layout of a model's state dict. Raises ValueError for a dtype that a buffer cannot hold."""
        parameters = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        norms = {name: type(module).__name__ for name, module in model.named_modules() if _is_norm(module)}
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
                    norm = norms.get(name.rpartition(".")[0], "")
                    frozen = not parameters.get(name, True)
                    entries.append(Entry(name, tuple(tensor.shape), kind, start, norm, frozen))
                    start += tensor.numel()
        return cls(tuple(entries))

    @cached_property
    def _counts(self) -> dict[Kind, int]:
        return {kind: sum(entry.size for entry in self.entries if entry.kind == kind) for kind in KINDS}

    def count(self, *kinds: Kind) -> int:
        return sum(self._counts[kind] for kind in kinds)

    @cached_property
    def num_floats(self) -> int:
        return self.count("weights", "statistics")

    @cached_property
    def num_counters(self) -> int:
        return self.count("counters")

    @property
    def float_bytes(self) -> int:
        """Bytes of the floats, rounded up so that the counters are aligned."""
        return (self.num_floats * 4 + 7) // 8 * 8

    @property
    def num_bytes(self) -> int:
        return self.float_bytes + self.num_counters * 8

    @cached_property
    def weights(self) -> tuple[Entry, ...]:
        """The model's parameters, which come first in the floats."""
        return tuple(entry for entry in self.entries if entry.kind == "weights")

    def spare_frozen(self, values: np.ndarray) -> None:
        """Set (num_weights or more,) values to zero where they stand for frozen parameters, in place."""
        for entry in self.weights:
            if entry.frozen:
                values[entry.start : entry.start + entry.size] = 0

    def part(self, chosen: Callable[[Entry], bool]) -> Part:
        """Those of the floats' entries that are chosen."""
        return Part(tuple(entry for entry in self.entries if entry.kind != "counters" and chosen(entry)))

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
        for flat, own in self._flats(buffer, model):
            # Gathered where the model is, so that a GPU's state crosses in one piece.
            gathered = flat if own[0].device.type == "cpu" else torch.empty_like(flat, device=own[0].device)
            for part, tensor in zip(_split(gathered, own), own, strict=True):
                part.copy_(tensor)
            if gathered is not flat:
                flat.copy_(gathered)
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
        # A copy: a buffer from the object store is read-only, and torch has no tensors that are.
        for flat, own in self._flats(buffer.copy(), model):
            for part, tensor in zip(_split(flat.to(own[0].device), own), own, strict=True):
                tensor.copy_(part)

    def _flats(self, buffer: np.ndarray, model: nn.Module) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """The floats and the counters of a buffer, each as one flat tensor, with the model's own in its order."""
        state = model.state_dict()
        for flat, counters in ((self.floats(buffer), False), (self.counters(buffer), True)):
            own = [state[entry.name] for entry in self.entries if (entry.kind == "counters") == counters]
            if own:
                yield torch.from_numpy(flat), own


def _split(flat: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """A flat tensor as views of the shapes of `like`, one after the other."""
    parts = torch.split(flat, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
