"""What a transform may change, whatever the FL method: a client's vectors before they are summed, a round's mean after.

A round, and where a transform has its say:

    Transform.send      server's memory -> vectors that go down with the global state
    Transform.client    a client's vectors and memory -> the vectors that are summed, and its new memory
    Transform.coding    what the client's update would take on the wire so
    Transform.server    the mean and the server's memory -> what the method steps on, and the server's new memory
    Transform.figures   what is told of the round: columns of rounds.csv, totals of results.json

Transforms are applied in the order in which `transforms.apply` names them, on both sides. The engine carries float32
whatever a transform does, so what a client sends are the values that a receiver would decode; `Coding` says what they
would take. Norm statistics, which are the end of the vector `weights`, are averaged as they are: a transform looks at
the first `layout.count("weights")` alone, and leaves a method's further vectors as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from raf_ray.algorithms.interface import Algorithm, Cohort, Memory, Vectors

if TYPE_CHECKING:  # late: the config reads the parameters, and torch takes two seconds
    from raf_ray.state import Layout

PREFIX = "transform."
"""Of what transforms keep and send, before their place."""


@dataclass(frozen=True)
class Coding:
    """How the weights of a client's update would be written on the wire."""

    values: int
    """That are written"""
    bits: int = 32
    """Of each"""
    overhead: int = 0
    """Bytes beside them: positions, scales"""
    layers: int = 0
    """Entries of the state that they are of"""

    @property
    def num_bytes(self) -> int:
        return (self.values * self.bits + 7) // 8 + self.overhead


@dataclass(frozen=True)
class Setting:
    """The federation that a transform is to work in."""

    algorithm: Algorithm
    transforms: Sequence[Transform]
    """All of them, in order"""
    layout: Layout
    clients: int
    """Of the federation"""
    expected: float
    """Clients that a round trains, in expectation"""
    draw: str
    """`federation.cohort.draw`"""
    is_mean: bool
    """Whether updates are combined by their mean, not by another aggregator"""
    devices: bool
    """Whether devices decide who of a cohort answers"""


class Transform:
    """One transform; its parameters are its fields, and it keeps nothing else between calls."""

    over_expected: ClassVar[bool] = False
    """Whether its mean is over the clients that a round trains in expectation, whoever answered. A round in which
    nobody was drawn is then a step too, and the method is told of the expected cohort alone."""
    figure_names: ClassVar[tuple[str, ...]] = ()
    """What `figures` tells, in order."""

    def requires(self, setting: Setting) -> str | None:
        """Why the transform cannot work there, in one sentence; None where it can. Asked before anything starts."""
        return None

    def init_server(self, layout: Layout) -> Memory:
        return {}

    def send(self, server: Memory) -> Vectors:
        """What goes down with the global state, once a round."""
        return {}

    def client(
        self, vectors: Vectors, memory: Memory, sent: Vectors, layout: Layout, rng: np.random.Generator
    ) -> tuple[Vectors, Memory]:
        """What a client sends in place of `vectors`, and what it keeps for its next round.

        Args:
            vectors: name -> (n,) float32, not weighted; not to be changed in place.
            memory: what the last call returned; {} in a client's first round.
            sent: what `send` gave.
            rng: of the seed, the round, the client and the transform's place.

        Raises RunError where the client cannot send them so; it is then a client that failed.
        """
        return vectors, memory

    def coding(self, coding: Coding, layout: Layout) -> Coding:
        """How the update's weights would be written, given how they would be without this transform."""
        return coding

    def server(
        self, mean: Vectors, memory: Memory, cohort: Cohort, layout: Layout, rng: np.random.Generator
    ) -> tuple[Vectors, Memory]:
        """What the method's server step is given in place of the weighted mean, and the server's new memory.

        Args:
            mean: name -> (n,) float64; `weights` alone, and zero, where nobody answered.
            rng: of the seed, the round and the transform's place.
        """
        return mean, memory

    def figures(self, rounds: int, memory: Memory, setting: Setting) -> Mapping[str, float]:
        """Name -> value after so many rounds, by `figure_names`.

        Args:
            memory: the server's, after the last of them.
        """
        return {}


def own(vectors: Mapping[str, np.ndarray], place: int) -> Memory:
    """Of what all transforms keep or send together, the part of the one at a place."""
    prefix = f"{PREFIX}{place}."
    return {name.removeprefix(prefix): values for name, values in vectors.items() if name.startswith(prefix)}


def placed(vectors: Mapping[str, np.ndarray], place: int) -> Memory:
    """A transform's part under the names that `own` finds again."""
    return {f"{PREFIX}{place}.{name}": values for name, values in vectors.items()}
