"""What crosses between the server and its clients: state down, updates up, and apart from both what is told of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from raf_ray.algorithms.interface import Memory, Vectors
from raf_ray.state import Layout


class LocalClient(Protocol):
    """A client as the engine asks it; `raf_ray.training.client.Client` is the one of this project."""

    @property
    def cached_mb(self) -> float:
        """Memory that its pixels take."""

    def train(self, down: Down, round_index: int, memory: Memory | None) -> tuple[Up, Receipt, Memory]:
        """A round, from 0, from a state; `memory` is what the last one returned. Raises RunError."""


@dataclass
class Workplace:
    """What the clients of one process share, one after the other."""

    model: object | None = None
    """Each loads its own state into it before it trains"""
    layout: Layout | None = None
    """Of that model"""


OpenClient = Callable[[int, Workplace], LocalClient]
"""(number of a client in its federation, where) -> the client"""


@dataclass(frozen=True)
class Down:
    """What every client of a round is given: ONE object in the store."""

    version: int
    """Rounds that made this state."""
    state: np.ndarray
    """(num_bytes,) uint8 global buffer, read only"""
    vectors: Vectors
    """What the method and transforms send beside it"""

    @property
    def num_bytes(self) -> int:
        return self.state.nbytes + sum(vector.nbytes for vector in self.vectors.values())


@dataclass(frozen=True)
class Up:
    """What is summed: a client's vectors, not weighted."""

    client: str
    version: int
    """Of the state that it trained from."""
    vectors: Vectors
    """`weights`: (num_floats,) float32, local minus global, with the norms' statistics; and the method's own."""
    counters: np.ndarray
    """(num_counters,) int64"""

    @property
    def num_bytes(self) -> int:
        return self.counters.nbytes + sum(vector.nbytes for vector in self.vectors.values())


@dataclass(frozen=True)
class Receipt:
    """What is told of a client's round."""

    client: str
    people: int
    """Trained on, epochs counted."""
    seconds: float
    forward_pixels: int
    loss: float
    """Mean over the people of their batches' losses, without a method's own term."""
    terms: dict[str, float]
    """Mean loss terms, `gt_128x96`, `kd_96x72` ..., over the people whose batches drew the level."""
    term_people: dict[str, int]
    """Term -> those people, epochs counted."""
    peak_memory_mb: float
    """On a GPU the round's largest allocation; on a CPU the process's largest resident memory so far, which cannot
    be set back and which clients that share a process share."""
    bad_pictures: int
    """People left out so far, as this process knows."""
    mb_received: float
    mb_sent: float
    norm: float
    """L2 norm of the weights' update; norm statistics left out."""
    keeps: bool
    """Whether the client keeps anything for its next round."""
    device: str
    """`cpu` or `cuda`: whose memory `peak_memory_mb` is."""
    trace: bytes | None = None
    """Gzipped Chrome trace of this round, where it was asked for."""

    def without_trace(self) -> Receipt:
        """The same without its trace, which would otherwise stay in memory."""
        return replace(self, trace=None)
