"""What one FL method may change, and no other part knows: each file beside this one is a whole method.

A round, and where a method has its say (`Algorithm`, on the server; `LocalRule`, in a client's round):

    Algorithm.send        server's memory -> vectors that go down with the global state
    Algorithm.local       a client's memory -> its LocalRule
      LocalRule.loss        before backward: add a term to the loss
      LocalRule.gradients   after backward, before the clip: change p.grad
      LocalRule.finish      update and steps -> vectors that go up, and the client's new memory
      LocalRule.close       at the end, or where the round failed
    Algorithm.weight      of each vector in its mean
    Algorithm.discount    of what comes from an older state, where the method does not wait for whole rounds (`pace`)
    Algorithm.server_step weights and mean vectors -> new weights, and the server's new memory

Weights are (num_weights,) vectors in the layout's order. What norms gather (running statistics) is averaged by the
engine and reaches no method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import ConfigDict

if TYPE_CHECKING:  # late: the config reads the methods' parameters, and torch takes two seconds
    from torch import Tensor, nn

    from raf_ray.resolution import Size
    from raf_ray.state import Entry, Layout

PARAMETERS = ConfigDict(use_attribute_docstrings=True, extra="forbid")
"""Of a method's dataclass: its fields become config keys, explained by the text under them."""

WEIGHTS = "weights"
"""The vector that every method sends: local minus global."""

PRIVATE = "private"
"""Name, in a client's memory, of the entries that its method keeps from the server, one after the other."""

Vectors = Mapping[str, np.ndarray]
"""Name -> (n,) float32. What a client sends up always holds WEIGHTS; a method may add its own."""

Memory = dict[str, np.ndarray]
"""What one client, or the server, keeps between rounds: named arrays, checkpointed as they are."""


@dataclass(frozen=True)
class Start:
    """A client at the start of its round: `model` holds the global state, which stays in no other place."""

    model: nn.Module
    layout: Layout
    vectors: Vectors
    """What `Algorithm.send` gave."""
    memory: Memory
    """What this client kept; `init_client`'s in its first round."""
    head: nn.Module | None
    """Of the model, what makes its outputs of its `features(images)`; None where it does not say"""
    full_gradient: Callable[[], np.ndarray]
    """(num_weights,) float32: the mean gradient over all of the client's people at the global state. It costs a
    pass over them, so only a method that needs it calls it."""


@dataclass(frozen=True)
class Cohort:
    """Whose updates a server step combines."""

    answered: float
    """Clients whose updates are in the mean; those expected, where a transform made it a mean over these"""
    clients: int
    """Clients of the federation"""
    expected: float
    """Clients that a round trains, in expectation"""
    discount: float = 1.0
    """Weighted mean of the discounts of those updates"""


@dataclass(frozen=True)
class Pace:
    """How a server that does not wait for whole rounds goes on, see `raf_ray.devices.buffered`."""

    concurrency: int
    """Clients at work at a time"""
    buffer: int
    """Updates that it steps on"""


class LocalRule:
    """A method's part in one client's round. This one has none: plain local training."""

    def loss(self, model: nn.Module, images: Tensor, loss: Tensor) -> Tensor:
        """The loss to go backward from, given the objective's and (B, 3, H, W) `images` of the highest level drawn."""
        return loss

    def gradients(self, model: nn.Module) -> None:
        """Change the gradients in place, after backward and before the clip."""

    def finish(self, update: np.ndarray, steps: int) -> tuple[Vectors, Memory]:
        """What goes up beside WEIGHTS, and what the client keeps.

        Args:
            update: (num_weights,) float32, local minus global weights.
            steps: optimiser steps that were made.
        """
        return {}, {}

    def close(self) -> None:
        """Undo what was done to the model beside its weights; called at the round's end, whatever it was."""


@dataclass(frozen=True)
class Setting:
    """What a method is combined with, as it is asked before anything starts."""

    optimizer: str
    """`adamw` or `sgd`"""
    layout: Layout
    has_features: bool
    """Whether the model gives its features (`raf_ray.models.head_of`)"""
    compiled: bool
    """Whether the model is compiled"""


class Algorithm(ABC):
    """One FL method; its parameters are its fields, and it keeps nothing else between calls."""

    pools: ClassVar[bool] = False
    """Whether all clients' people are in one place and train as one client: a reference, no FL"""

    sends: ClassVar[tuple[str, ...]] = (WEIGHTS,)
    """Every vector that a client sends: WEIGHTS, and those of `LocalRule.finish`."""

    def common_tier(self, sizes: Mapping[str, Size]) -> str | None:
        """The tier, or HxW, that all people are seen at, given the clients' tiers; None: each at its owner's."""
        return None

    def pace(self, clients: int) -> Pace | None:
        """Of a federation of so many clients; None: the server waits for whole rounds."""
        return None

    def discount(self, staleness: int) -> float:
        """Factor in (0, 1] of the weight of an update from a state so many rounds old, see `pace`."""
        return 1.0

    def requires(self, setting: Setting) -> str | None:
        """Why the method cannot work in that setting, and what to do; None where it can."""
        return None

    def says(self, setting: Setting) -> str | None:
        """What a user should know of the method in that setting, in one sentence."""
        return None

    def is_private(self, entry: Entry) -> bool:
        """Whether a client keeps this entry of the state to itself, as FedBN keeps norms."""
        return False

    def init_server(self, layout: Layout) -> Memory:
        return {}

    def init_client(self, layout: Layout) -> Memory:
        return {}

    def send(self, server: Memory) -> Vectors:
        """What goes down with the global state, once a round."""
        return {}

    def local(self, start: Start) -> LocalRule:
        return LocalRule()

    @abstractmethod
    def weight(self, vector: str, people: int) -> float:
        """A client's weight in the mean of that vector, up to a common factor."""

    @abstractmethod
    def server_step(
        self, weights: np.ndarray, mean: Vectors, server: Memory, cohort: Cohort
    ) -> tuple[np.ndarray, Memory]:
        """The next global weights and server's memory.

        Args:
            weights: (num_weights,) float32 global weights.
            mean: name -> (n,) float64 weighted mean of what the clients sent; arrays of its own, which may be changed.
        """
