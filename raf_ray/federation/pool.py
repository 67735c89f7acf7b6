"""Where clients and the evaluator live: here in this process, one after the other, or as Ray actors.

Both pools run the same `Client` and scorer, so they give the same bits.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from raf_ray.errors import InputError, RunError
from raf_ray.federation.client import Client, Update
from raf_ray.federation.messages import Scores

MakeClient = Callable[[], Client]
Score = Callable[..., Scores]
"""``score(buffer, split, sizes, sample_sizes)``"""
MakeScore = Callable[[], Score]


class ClientError(RunError):
    """A client could not finish its round; the message names it, its tier, the round and the cause."""

    def __init__(self, client: str, tier: str, round_index: int, cause: str, details: str = "") -> None:
        super().__init__(f"client {client} (tier {tier}) failed in round {round_index + 1}: {cause}")
        self.details = details


class NodeError(RunError):
    """A node of the cluster was lost; the message names it and who lived there."""

    def __init__(self, message: str, details: str) -> None:
        super().__init__(message)
        self.details = details


def told(error: BaseException | None) -> str:
    """An exception in one line; those of this project speak for themselves."""
    text = str(error) if isinstance(error, InputError | RunError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


class Pool(Protocol):
    """What the driver asks of a place where clients live."""

    def publish(self, buffer: np.ndarray) -> Any:
        """Make a state readable by all; what it returns is passed to `train` and `submit_score`."""

    def train(self, state: Any, round_index: int, shares: Mapping[str, float]) -> Iterator[Update]:
        """Train the named clients, each with its share; updates come as they are ready. Raises ClientError."""

    def submit_score(self, state: Any, split: str, sizes: Sequence[str], sample_sizes: Sequence[str]) -> Any:
        """Begin to score a state; `collect_score` takes what this returns."""

    def collect_score(self, pending: Any, wait: bool) -> Scores | None:
        """The scores, or None where they are not ready and `wait` is false."""

    def local_states(self) -> dict[str, Any]:
        """What clients keep between rounds, for a checkpoint."""

    def restore(self, states: Mapping[str, Any]) -> None:
        """Give clients back what `local_states` returned. Raises RunError where it does not fit one."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Member:
    """A client as the driver knows it."""

    name: str
    tier: str
    people: int
    cost: float
    """Expected forward pixels a round: who takes longest."""
    make: MakeClient


class InProcessPool:
    """The clients one after the other in this process: for a debugger, and as the reference for Ray."""

    def __init__(self, members: Sequence[Member], make_score: MakeScore) -> None:
        self._members = {member.name: member for member in members}
        self._clients = {member.name: member.make() for member in members}
        self._score = make_score()

    def publish(self, buffer: np.ndarray) -> np.ndarray:
        state = buffer.copy()
        state.setflags(write=False)
        return state

    def train(self, state: np.ndarray, round_index: int, shares: Mapping[str, float]) -> Iterator[Update]:
        for name, share in shares.items():
            try:
                yield self._clients[name].train(state, round_index, share)
            except Exception as error:  # whatever a client's own code raises
                details = traceback.format_exc()
                raise ClientError(name, self._members[name].tier, round_index, told(error), details) from error

    def submit_score(self, state: np.ndarray, split: str, sizes: Sequence[str], sample_sizes: Sequence[str]) -> Scores:
        return self._score(state, split, sizes, sample_sizes)

    def collect_score(self, pending: Scores, wait: bool) -> Scores:
        return pending

    def local_states(self) -> dict[str, Any]:
        states = {name: client.local_state() for name, client in self._clients.items()}
        return {name: state for name, state in states.items() if state is not None}

    def restore(self, states: Mapping[str, Any]) -> None:
        for name, state in states.items():
            try:
                self._clients[name].restore(state)
            except RunError as error:
                raise RunError(f"client {name} (tier {self._members[name].tier}) cannot go on: {error}") from error

    def close(self) -> None:
        self._clients.clear()
